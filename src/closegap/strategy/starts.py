"""Counterexamples from elsewhere that a distance query begins with.

A point that is far in one distance may be near in another: queries of one image hand on what they
saw. Nothing is taken on trust; every point is replayed on the ONNX file and in float64. What counts
at once, without a search of its own, is settled first: near in one distance, a point lies far from
the boundary in another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest
from closegap.attacks.minimal.settle import Settling
from closegap.core.budget import Budget
from closegap.core.errors import SpecError
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.strategy.failures import describe_failure

__all__ = ["counterexamples", "required", "settled"]


def counterexamples(
    query: DistanceQuery,
    points: Iterable[NDArray[np.floating]],
    most: int,
    *,
    below: float = math.inf,
) -> tuple[Nearest, ...]:
    """The nearest of any points that are counterexamples of a query; all others are left out.

    Args:
        query: whose counterexamples.
        points: of any shape and values, such as those of a candidate pool.
        most: so many at most.
        below: a distance that they must lie below.

    Returns:
        float32 points in the network's input shape, nearest first, each replayed.
    """
    fit = [point for start in points if isinstance(point := _shaped(query, start), np.ndarray)]
    known = sorted((Nearest(query.distance(x), x) for x in fit), key=lambda n: n.distance)
    found: list[Nearest] = []
    for nearest in known:
        if len(found) >= most or not nearest.distance < below:
            break
        if nearest.point is not None and _breaks(query, nearest.point):
            found.append(nearest)
    return tuple(found)


def required(query: DistanceQuery, starts: Sequence[NDArray[np.floating]]) -> tuple[Nearest, ...]:
    """The starts, nearest first, each replayed.

    Raises:
        SpecError: one has another shape than the network's input, an entry that is no number in
            [0, 1], or is no counterexample of the query.
    """
    known = []
    for place, start in enumerate(starts):
        point = _shaped(query, start)
        if isinstance(point, str):
            raise SpecError(f"starts[{place}] {point}")
        if not _breaks(query, point):
            kept = f"keeps label {query.label}"
            kept = kept if query.target is None else f"does not reach class {query.target}"
            raise SpecError(f"starts[{place}] is no counterexample: replayed, it {kept}")
        known.append(Nearest(query.distance(point), point))
    return tuple(sorted(known, key=lambda nearest: nearest.distance))


def settled(query: DistanceQuery, known: Nearest, budget: Budget) -> tuple[Nearest, str]:
    """A counterexample brought to the nearest point of its linear region; never a farther one.

    Args:
        query: whose counterexample.
        known: it, replayed.
        budget: its deadline.

    Returns:
        the nearest one that was replayed; what went wrong, for people, empty where nothing did.
    """
    nearest = known

    def counts(point: NDArray[np.float32], distance: float) -> bool:
        nonlocal nearest
        broken = _breaks(query, point)
        if broken and distance < nearest.distance:
            nearest = Nearest(distance, point)
        return broken

    try:
        Settling().run(query, known, budget, counts)
    except Exception as error:  # what was known stands
        return nearest, describe_failure("settling", error)[1]
    return nearest, ""


def _shaped(query: DistanceQuery, start: NDArray[np.floating]) -> NDArray[np.float32] | str:
    """The point as float32 in the network's input shape; or, in words, why it is none."""
    values, shape = np.asarray(start), query.network.input_shape
    if values.shape not in (shape, query.image.shape):
        return f"has shape {list(values.shape)}, the network's input {list(shape)}"
    if values.dtype.kind not in "fiu" or not ((values >= 0) & (values <= 1)).all():
        return "has an entry that is not a number in [0, 1]"
    return values.astype(np.float32).reshape(shape)


def _breaks(query: DistanceQuery, point: NDArray[np.float32]) -> bool:
    witness = replayer(query.network).witness(query.anywhere(), point)
    return witness is not None and witness.breaks
