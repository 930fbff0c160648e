"""Least distances over a data set: one image after the other, each under every distance asked.

The queries of one image share what they find: each begins with the nearest of the others'
counterexamples, and gives the ones before it a nearer witness where it came upon one: settled
first, for what is near in one distance has a boundary that is nearer in another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.core.tolerance import Tolerance
from closegap.data import DataSet
from closegap.evaluate import provenance
from closegap.evaluate.distance_records import Asked, nearer, record_of
from closegap.graph.network import Network
from closegap.specs.distance import DistanceQuery
from closegap.specs.layout import Layout, picture_of
from closegap.specs.objectives import OBJECTIVES, ObjectiveOptions, make_objective
from closegap.store import DistanceRecord, RunHeader, RunStore, query_key
from closegap.strategy.distance import DistanceInterrupted, minimise_distance, require_exact
from closegap.strategy.starts import counterexamples, settled

_CUT_OFF = "interrupted"
#: Of a distance's time, and in seconds, what a nearer witness of another may take to settle.
_SETTLE_SHARE, _SETTLE_MOST = 0.05, 1.0
#: Farther by so much, as a share, a new witness of another distance is settled too.
_FARTHER = 0.05

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

    What the store holds of the plan is not asked again, but yielded in its place. A record with the
    key of an earlier one takes its place: a later distance of the image found a nearer witness.

    Args:
        plan: what is asked.
        store: of this plan's run, or `None` to keep nothing.

    Raises:
        StoreError: the store cannot be written.
        SoundnessError: what one query proved excludes what another one found.
        KeyboardInterrupt: after a record of the distance that was cut off, as far as its bracket
            had come; it is not in the store, so that a run that continues asks it anew.
    """
    held: dict[int, list[DistanceRecord]] = {}
    if store is not None:
        asked = {_key(plan, place, d) for place in range(len(plan.data)) for d in plan.distances}
        for record in store.distances():
            held.setdefault(record.index, []).append(record)
            asked.add(record.key)
        store.set_total(len(asked))
    for place in range(len(plan.data)):
        known = held.get(int(plan.data.indices[place]), [])
        yield from _Image(plan, place, store, known).records()


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


#: The name of a distance, and the counterexamples that came up under it.
_Found: TypeAlias = tuple[str, Sequence[NDArray[np.float32]]]


class _Image:
    """The queries of one image.

    Args:
        plan: what is asked.
        place: of the image in the plan's data.
        store: of the run, or `None`.
        held: what the store holds of the image, under whatever distance.
    """

    def __init__(
        self,
        plan: DistancePlan,
        place: int,
        store: RunStore | None,
        held: Sequence[DistanceRecord],
    ) -> None:
        self._plan, self._place, self._store = plan, place, store
        self._held = {record.key: record for record in held}
        self._done: dict[str, tuple[Asked, DistanceRecord]] = {}
        #: By whose query counterexamples came up.
        self._found: list[_Found] = [
            (record.distance, [record.pictures.witness])
            for record in held
            if record.pictures is not None
        ]

    def records(self) -> Iterator[DistanceRecord]:
        """Of every distance; again of those that a later one gave a nearer witness."""
        for distance in self._plan.distances:
            asked = self._asked(distance)
            record = self._held.get(asked.key)
            if record is not None:
                yield self._shared(asked, record, self._found)
                continue
            record, stopped = self._measured(asked, distance.exact)
            yield record
            if stopped is not None:
                raise stopped
            for earlier, old in list(self._done.values()):
                better = self._shared(earlier, old, self._found[-1:], _FARTHER)
                if better is not old:
                    yield better
            self._done[asked.key] = asked, record

    def _asked(self, distance: Distance) -> Asked:
        plan, place = self._plan, self._place
        image = np.asarray(plan.data.images[place], dtype=np.float32)
        return Asked(
            key=_key(plan, place, distance),
            index=int(plan.data.indices[place]),
            distance=distance.name,
            options=distance.facts,
            query=distance.query(plan.network, image, int(plan.data.labels[place])),
            tolerance=distance.tolerance or Tolerance(),
        )

    def _measured(
        self, asked: Asked, exact: str | None
    ) -> tuple[DistanceRecord, DistanceInterrupted | None]:
        """The record, and the interruption that cut it off; without one it is in the store."""
        header, stopped = self._plan.header, None
        known = [n for _, seen in self._found for n in counterexamples(asked.query, seen, 1)]
        try:
            result = minimise_distance(
                asked.query,
                timeout=header.timeout,
                tolerance=asked.tolerance,
                starts=[nearest.point for nearest in known if nearest.point is not None],
                exact=exact,
                seed=header.seed,
            )
        except DistanceInterrupted as stop:
            stopped, result = stop, stop.result
        self._found.append((asked.distance, result.seen))
        record = record_of(asked, result, *[_CUT_OFF] * (stopped is not None))
        if stopped is None and self._store is not None:
            self._store.add_distance(record)
        return record, stopped

    def _shared(
        self,
        asked: Asked,
        record: DistanceRecord,
        others: Sequence[_Found],
        farther: float = 0.0,
    ) -> DistanceRecord:
        """The record with the nearest witness of others' queries; a better one is in the store.

        Of a bracket that is open, one farther by at most this share may come nearer as it settles.
        """
        before = record
        for source, seen in others:
            reach = 0.0 if record.closed else farther
            below = max(record.upper * (1 + reach), record.upper * (1 - reach))  # of either sign
            for found in counterexamples(asked.query, seen, 1, below=below):
                record = self._settled(asked, record, found, f"a witness of {source}")
        self._done[asked.key] = asked, record
        if record is not before and self._store is not None:
            self._store.improve_distance(record)
        return record

    def _settled(
        self, asked: Asked, record: DistanceRecord, found: Nearest, source: str
    ) -> DistanceRecord:
        """The record with a witness brought to the boundary, if it comes to lie nearer."""
        timeout, begun = self._plan.header.timeout, time.monotonic()
        spend = Budget.of_seconds(min(_SETTLE_SHARE * timeout, _SETTLE_MOST))
        found, failed = settled(asked.query, found, spend)
        if not found.distance < record.upper:
            return record
        spent = replace(record, seconds=record.seconds + time.monotonic() - begun)
        return nearer(spent, asked, found, source, failed)
