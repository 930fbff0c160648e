"""Tighter ranges of a node's units: only inputs count that are near and attain the target.

Layer by layer, each unit's plane plus a multiple of the margin's plane (at most 0 where the target
is attained) is minimised over the region, which holds every nearer input. One multiplier of the
margin and one of the region's radius are sought by search; whatever they are, the bound holds.
"""

from __future__ import annotations

import time

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.sparse.currents import Currents
from closegap.attacks.sparse.planes import Functions, Planes, Proof, Ranges
from closegap.core.budget import Budget
from closegap.core.numerics import TINY, gamma

__all__ = ["lowered", "sweep"]

Array = NDArray[np.float64]

#: Multiples of the margin that are tried, of the ratio of both planes' slopes.
_MULTIPLES = (0.3, 1.0, 3.0)
#: Units that are bounded together at most; where a deadline is to be kept, at first, and for how
#: many seconds: under total variation on colour pictures all of them take seconds.
_TOGETHER, _FIRST, _SECONDS = 256, 16, 0.2
#: By how much their number may grow from one time to the next.
_GROWTH = 4


def sweep(
    planes: Planes, currents: Currents, ranges: Ranges, margins: list[Proof], budget: Budget
) -> Ranges:
    """Ranges at least as tight, that hold wherever the margins' planes may be at most 0.

    Args:
        planes: of the ground.
        currents: over a region that holds every input that counts; of two functions a unit.
        ranges: of the node.
        margins: planes below the target's margin that hold in the node, one row each; or none.
        budget: units that its deadline leaves out keep their ranges; with a limit of nodes, how
            many are bounded together does not follow the clock.
    """
    together = _FIRST if budget.nodes is None else _TOGETHER
    found = Ranges(ranges.low.copy(), ranges.high.copy())
    for number, layer in enumerate(planes.ground.layers):
        units = layer.start + np.flatnonzero(found.free[layer])
        while len(units):
            if budget.expired:
                return found
            begun = time.monotonic()
            some, units = units[:together], units[together:]
            best = _least(planes, currents, found, margins, some, number)
            found.low[some] = np.fmax(found.low[some], best[0])
            found.high[some] = np.fmin(found.high[some], -best[1])
            if budget.nodes is None:
                together = _fitting(len(some), time.monotonic() - begun)
        if found.empty:
            break
    return found


def _fitting(units: int, seconds: float) -> int:
    """How many units take about `_SECONDS`, as so many took so long."""
    pace = seconds / max(units, 1)
    return int(np.clip(_SECONDS / max(pace, TINY), 1, min(_GROWTH * units, _TOGETHER)))


def _least(
    planes: Planes,
    currents: Currents,
    ranges: Ranges,
    margins: list[Proof],
    units: NDArray[np.int64],
    number: int,
) -> Array:
    """Lower bounds of units of a layer, and of minus these, `[2, N]`."""
    ground = planes.ground
    both, sign = np.concatenate([units, units]), np.repeat([1.0, -1.0], len(units))
    functions = Functions(ground.weight[both], ground.bias[both], ground.slack[both]).times(sign)
    proof = planes.proof(functions, planes.propagated(functions, ranges, number), ranges)
    numbers = 2 * both + (sign < 0)
    best = np.full(len(both), -np.inf)
    if not margins:
        best = lowered(currents.least(proof.slopes, numbers), proof, ground.reach)
    for margin in margins:
        best = np.maximum(best, _constrained(currents, numbers, proof, margin, ground.reach))
    return best.reshape(2, -1)


def lowered(
    least: Float[np.ndarray, "B"], proof: Proof, reach: Float[np.ndarray, "C"]
) -> Float[np.ndarray, "B"]:
    """The planes' least values from those of their linear parts.

    Args:
        least: lower bounds of `slopes . difference`.
        proof: the planes.
        reach: the ground's.
    """
    size = np.abs(proof.slopes) @ reach[: proof.slopes.shape[1]] + np.abs(proof.constants)
    return np.asarray(least + proof.constants - gamma(16) * size)


def _constrained(
    currents: Currents, numbers: NDArray[np.int64], proof: Proof, margin: Proof, reach: Array
) -> Array:
    """The planes' least values over the region where the margin's plane is at most 0."""
    slope, constant = margin.slopes[0], margin.constants[0]
    rough, steep = proof.slopes.astype(np.float32), slope.astype(np.float32)
    size = np.linalg.norm(rough, axis=1) / max(float(np.linalg.norm(steep)), TINY)
    best, factor = currents.guess(rough, numbers), np.zeros(len(rough))
    for multiple in _MULTIPLES:
        tried = (multiple * size).astype(np.float32)
        total = rough + tried[:, None] * steep
        value = currents.guess(total, numbers) + tried * np.float32(constant)
        factor = np.where(value > best, tried, factor)
        best = np.maximum(best, value)
    total = proof.slopes + factor[:, None] * slope
    value = currents.least(total, numbers) + proof.constants + factor * constant
    far = reach[: len(slope)]
    scale = np.abs(proof.slopes) @ far + factor * (np.abs(slope) @ far)
    scale += np.abs(proof.constants) + np.abs(factor * constant)
    return np.asarray(value - gamma(16) * scale)
