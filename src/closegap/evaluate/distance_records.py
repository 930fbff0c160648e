"""Records of distance queries: what a result comes to, and what a nearer witness changes of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest
from closegap.attacks.minimal.grid import as_picture
from closegap.core.tolerance import Tolerance
from closegap.evaluate.metrics import picture_metrics
from closegap.evaluate.recording import strongest_other
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.store import BracketEvent, DistanceRecord, Pictures
from closegap.strategy.distance import DistanceResult, require_consistent

__all__ = ["Asked", "nearer", "record_of"]

_CLEAN = "the image itself loses the label"
_NONE = "proved: no input in [0, 1] is a counterexample"
_UNSEEN = "no counterexample was found, and none is excluded: a longer time may tell"


@dataclass(frozen=True, eq=False)
class Asked:
    """One distance of one image.

    Attributes:
        key: of its record.
        index: of the image in its data set.
        distance: the objective's name.
        options: what else defines it, JSON values by name.
        query: what is asked.
        tolerance: of a closed bracket.
    """

    key: str
    index: int
    distance: str
    options: dict[str, object]
    query: DistanceQuery
    tolerance: Tolerance


@dataclass(frozen=True, eq=False)
class _Shown:
    """What is told of a witness.

    Attributes:
        pictures: clean image and witness, each with its outputs.
        rounded: the levels of an 8-bit picture that loses the label, or `None`.
        target: the class it reaches.
        metrics: how sparse and how visible the change is, by name.
        note: what became of it as an 8-bit picture, for people.
    """

    pictures: Pictures | None = None
    rounded: UInt8[np.ndarray, "..."] | None = None
    target: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @classmethod
    def of(cls, query: DistanceQuery, witness: NDArray[np.float32] | None) -> _Shown:
        """Of a query's witness; of none, nothing."""
        if witness is None:
            return cls()
        pictures = _pictures(query, witness)
        rounded, note = as_picture(query, witness)
        reached = query.target
        if reached is None:
            reached = strongest_other(pictures.witness_outputs, query.label)
        return cls(pictures, rounded, reached, _metrics(query, pictures, rounded), note)


def record_of(asked: Asked, result: DistanceResult, *notes: str) -> DistanceRecord:
    """The record of a result.

    Args:
        asked: what it answers.
        result: the answer.
        notes: more of them, which come first.
    """
    shown = _Shown.of(asked.query, result.witness)
    pictures = shown.pictures
    clean = pictures is not None and np.array_equal(pictures.clean, pictures.witness)
    unseen = pictures is None and not result.none_exists
    said = [*notes, *[_CLEAN] * clean, *[_NONE] * result.none_exists, *[_UNSEEN] * unseen]
    said += [*result.notes, shown.note]
    return DistanceRecord(
        key=asked.key,
        index=asked.index,
        label=asked.query.label,
        distance=asked.distance,
        options=asked.options,
        target=shown.target,
        lower=result.lower,
        upper=result.upper,
        tolerance=result.tolerance,
        seconds=result.seconds,
        history=tuple(BracketEvent(at, "", low, high) for at, low, high in result.history),
        counts=dict(result.counts),
        part_seconds=dict(result.part_seconds),
        metrics=shown.metrics,
        detail="; ".join(note for note in said if note),
        pictures=pictures,
        rounded=shown.rounded,
    )


def nearer(
    record: DistanceRecord, asked: Asked, found: Nearest, source: str, *notes: str
) -> DistanceRecord:
    """The record with a nearer witness, which another distance's query found.

    Args:
        record: whose upper end is farther.
        asked: what it answers.
        found: a replayed counterexample of the query.
        source: whose, for people.
        notes: for people.

    Raises:
        SoundnessError: it is nearer than what was proved.
    """
    require_consistent(record.lower, found.distance)
    old = None if record.pictures is None else record.pictures.witness
    before = "" if old is None else as_picture(asked.query, old)[1]
    shown = _Shown.of(asked.query, found.point)
    lower = min(record.lower, found.distance)
    said = [
        record.detail.removesuffix(before).removesuffix("; ").removeprefix(_UNSEEN).lstrip("; "),
        f"nearer by {source}",
        *notes,
        shown.note,
    ]
    return replace(
        record,
        target=shown.target,
        lower=lower,
        upper=found.distance,
        tolerance=asked.tolerance.width(found.distance),
        history=(*record.history, BracketEvent(record.seconds, source, lower, found.distance)),
        metrics=shown.metrics,
        detail="; ".join(note for note in said if note),
        pictures=shown.pictures,
        rounded=shown.rounded,
    )


def _pictures(query: DistanceQuery, witness: NDArray[np.float32]) -> Pictures:
    """Clean image and witness, each with its outputs."""
    clean = query.image.reshape(query.network.input_shape)
    judge = replayer(query.network)
    single = judge.outputs_float32(np.stack([clean, witness]))
    return Pictures(
        clean=clean,
        witness=witness,
        clean_outputs=single[0],
        witness_outputs=single[1],
        witness_outputs_float64=judge.outputs_float64(witness[None])[0],
    )


def _metrics(
    query: DistanceQuery, pictures: Pictures, rounded: UInt8[np.ndarray, "..."] | None
) -> dict[str, float]:
    """Of the witness on the grid of 8-bit pictures, those that there are."""
    entries = query.picture.entries
    shown = pictures.witness if rounded is None else rounded / 255
    clean, changed = (a.reshape(-1)[entries] for a in (pictures.clean, shown))
    named = asdict(picture_metrics(clean, changed))
    return {name: float(value) for name, value in named.items() if not math.isnan(value)}
