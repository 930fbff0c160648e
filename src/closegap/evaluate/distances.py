"""Least distances over a data set: one image after the other, each under every distance asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from closegap.attacks.minimal.grid import as_picture
from closegap.core.errors import OptionError
from closegap.core.tolerance import Tolerance
from closegap.data import DataSet
from closegap.evaluate import provenance
from closegap.evaluate.metrics import picture_metrics
from closegap.evaluate.recording import strongest_other
from closegap.graph.network import Network
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.layout import Layout, picture_of
from closegap.specs.objectives import OBJECTIVES, ObjectiveOptions, make_objective
from closegap.store import BracketEvent, DistanceRecord, Pictures, RunHeader, RunStore, query_key
from closegap.strategy.distance import (
    DistanceInterrupted,
    DistanceResult,
    minimise_distance,
    require_exact,
)

_CUT_OFF, _CLEAN = "interrupted", "the image itself loses the label"
_NONE = "proved: no input in [0, 1] is a counterexample"

__all__ = ["Distance", "DistancePlan", "measure", "plan_distances"]


@dataclass(frozen=True)
class Distance:
    """One distance to minimise.

    Attributes:
        name: one of `OBJECTIVES`.
        options: of the objective.
        target: the one class that counts as a loss; `None` for every other.
        exact: see `minimise_distance`.
        layout: of flat inputs, which entries are one pixel; `None` for what the network tells.
        outright: whether the target must win over all classes, not only over the label.
        tolerance: see `minimise_distance`.

    Raises:
        OptionError: the name, or the exact solver, is unknown; no target is to win outright.
    """

    name: str
    options: ObjectiveOptions = field(default_factory=ObjectiveOptions)
    target: int | None = None
    exact: str | None = None
    layout: Layout | None = None
    outright: bool = False
    tolerance: Tolerance | None = None

    def __post_init__(self) -> None:
        require_exact(self.exact)
        if self.outright and self.target is None:
            raise OptionError("a class can win outright only where it is the target")
        if self.name not in OBJECTIVES:
            raise OptionError(
                f"no distance is called '{self.name}'; use one of {', '.join(OBJECTIVES)}"
            )

    @property
    def facts(self) -> dict[str, object]:
        """What defines it besides its name, and who brackets it; JSON values."""
        facts: dict[str, object] = {}
        if self.name == "l1+tv":
            facts = {"kappa": self.options.kappa, "of": self.options.of}
            if self.options.isotropic:
                facts["isotropic"] = True
        if self.target is not None:
            facts["target"] = self.target
        if self.outright:
            facts["outright"] = True
        if self.exact is not None:
            facts["exact"] = self.exact
        if self.tolerance is not None:
            facts["tolerance"] = str(self.tolerance)
        if self.layout is not None:
            facts["layout"] = self.layout
        return facts

    def query(self, network: Network, image: NDArray[np.float32], label: int) -> DistanceQuery:
        """The query at one image.

        Raises:
            OptionError: an option is out of range.
        """
        grid = picture_of(network, self.layout)
        objective = make_objective(self.name, image, grid=grid, options=self.options)
        return DistanceQuery(
            network, image, label, objective, self.target, self.outright, self.layout
        )


@dataclass(frozen=True, eq=False)
class DistancePlan:
    """One run of distance queries.

    Attributes:
        header: what goes into a store; which distances are asked is no part of it, so that a run
            can be continued with others.
        network: in whose input shape the images are.
        data: images and labels.
        distances: asked of every image, in this order.
    """

    header: RunHeader
    network: Network
    data: DataSet
    distances: tuple[Distance, ...]


def plan_distances(
    network: Network,
    data: DataSet,
    distances: Sequence[Distance],
    *,
    timeout: float,
    seed: int = 0,
    data_digest: str = "",
    command: str = "",
) -> DistancePlan:
    """The run that asks every distance of every image.

    Args:
        network: in whose input shape the images are.
        data: images that fit it.
        distances: at least one.
        timeout: seconds for one distance of one image.
        seed: of every random choice.
        data_digest: of the whole data set, so that a run can be continued with more of its images.
        command: the command line, for the report.
    """
    header = RunHeader(
        kind="distances",
        model=network.source,
        model_digest=network.digest,
        data=data.name,
        data_digest=data_digest,
        eps=None,
        norm="",
        timeout=timeout,
        engines=(),
        settings={},
        seed=seed,
        command=command,
        versions=provenance.versions(),
        machine=provenance.machine(),
        started=provenance.now(),
        total=len(data) * len(distances),
        class_names=data.class_names,
    )
    return DistancePlan(header, network, data, tuple(distances))


def measure(plan: DistancePlan, store: RunStore | None = None) -> Iterator[DistanceRecord]:
    """Bracket every distance; records by image, each in the store before it is yielded.

    What the store holds of the plan is not asked again, but yielded in its place.

    Args:
        plan: what is asked.
        store: of this plan's run, or `None` to keep nothing.

    Raises:
        StoreError: the store cannot be written.
        KeyboardInterrupt: after a record of the distance that was cut off, as far as its bracket
            had come; it is not in the store, so that a run that continues asks it anew.
    """
    held: dict[str, DistanceRecord] = {}
    if store is not None:
        held = {record.key: record for record in store.distances()}
        asked = {_key(plan, place, d) for place in range(len(plan.data)) for d in plan.distances}
        store.set_total(len(asked | set(held)))
    for place in range(len(plan.data)):
        for distance in plan.distances:
            key = _key(plan, place, distance)
            if key in held:
                yield held[key]
                continue
            record, stopped = _measured(plan, place, distance, key)
            if stopped is None and store is not None:
                store.add_distance(record)
            yield record
            if stopped is not None:
                raise stopped


def _key(plan: DistancePlan, place: int, distance: Distance) -> str:
    header, data = plan.header, plan.data
    return query_key(
        model=header.model_digest,
        inputs=data.images[place].tobytes(),
        query={
            "index": int(data.indices[place]),
            "label": int(data.labels[place]),
            "distance": distance.name,
            **distance.facts,
        },
        settings={"timeout": header.timeout, "seed": header.seed},
    )


def _measured(
    plan: DistancePlan, place: int, distance: Distance, key: str
) -> tuple[DistanceRecord, DistanceInterrupted | None]:
    """The record, and the interruption that cut it off."""
    image = np.asarray(plan.data.images[place], dtype=np.float32)
    query = distance.query(plan.network, image, int(plan.data.labels[place]))
    stopped: DistanceInterrupted | None = None
    try:
        result = minimise_distance(
            query,
            timeout=plan.header.timeout,
            tolerance=distance.tolerance,
            exact=distance.exact,
            seed=plan.header.seed,
        )
    except DistanceInterrupted as stop:
        stopped, result = stop, stop.result
    pictures = _pictures(query, result)
    rounded, note = None, ""
    if result.witness is not None:
        rounded, note = as_picture(query, result.witness)
    clean = pictures is not None and np.array_equal(pictures.clean, pictures.witness)
    notes = [_CUT_OFF] * (stopped is not None) + [_CLEAN] * clean
    notes += [_NONE] if result.none_exists else [] if result.closed else result.notes
    notes += [note] * bool(note)
    record = DistanceRecord(
        key=key,
        index=int(plan.data.indices[place]),
        label=query.label,
        distance=distance.name,
        options=distance.facts,
        target=None if pictures is None else _reached(pictures, query),
        lower=result.lower,
        upper=result.upper,
        tolerance=result.tolerance,
        seconds=result.seconds,
        history=tuple(BracketEvent(at, "", low, high) for at, low, high in result.history),
        counts=dict(result.counts),
        part_seconds=dict(result.part_seconds),
        metrics={} if pictures is None else _metrics(query, pictures, rounded),
        detail="; ".join(notes),
        pictures=pictures,
        rounded=rounded,
    )
    return record, stopped


def _pictures(query: DistanceQuery, result: DistanceResult) -> Pictures | None:
    """Clean image and witness, each with its outputs."""
    if result.witness is None:
        return None
    clean = query.image.reshape(query.network.input_shape)
    judge = replayer(query.network)
    single = judge.outputs_float32(np.stack([clean, result.witness]))
    return Pictures(
        clean=clean,
        witness=result.witness,
        clean_outputs=single[0],
        witness_outputs=single[1],
        witness_outputs_float64=judge.outputs_float64(result.witness[None])[0],
    )


def _reached(pictures: Pictures, query: DistanceQuery) -> int:
    """The target, or the greatest of the other outputs."""
    if query.target is not None:
        return query.target
    return strongest_other(pictures.witness_outputs, query.label)


def _metrics(
    query: DistanceQuery, pictures: Pictures, rounded: UInt8[np.ndarray, "..."] | None
) -> dict[str, float]:
    """Of the witness on the grid of 8-bit pictures, those that there are."""
    entries = query.picture.entries
    shown = pictures.witness if rounded is None else rounded / 255
    clean, changed = (a.reshape(-1)[entries] for a in (pictures.clean, shown))
    named = asdict(picture_metrics(clean, changed))
    return {name: float(value) for name, value in named.items() if not math.isnan(value)}
