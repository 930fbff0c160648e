"""The real first layer: its signs decided in exact arithmetic, and its sums over a box.

Sums are evaluated in float64 with their rounding bounded; where that leaves a sign open, rational
arithmetic decides. So every input has the signs that the weights define, ties included.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from closegap.core.numerics import gamma
from closegap.graph.binarized.records import FirstLayer

__all__ = ["SumBounds", "first_signs", "fixed_signs", "sum_bounds"]

#: Numbers of a temporary array.
_BLOCK = 1 << 22
#: float64 holds integers exactly up to two to this.
_DIGITS = 53


@dataclass(frozen=True, eq=False)
class SumBounds:
    """Sound bounds of every sum over a box, rounding included.

    `rounding` bounds what float64 loses of a sum anywhere on the box, however it is written out.
    """

    lower: Float[np.ndarray, "S"]
    upper: Float[np.ndarray, "S"]
    rounding: Float[np.ndarray, "S"]


def first_signs(layer: FirstLayer, inputs: Float[np.ndarray, "B D"]) -> Bool[np.ndarray, "B U"]:
    """The exact signs of the first layer at float64 inputs (float32 ones are among them)."""
    patches = layer.patches
    step = max(1, _BLOCK // max(1, patches.gather.size))
    blocks = [_block(layer, inputs[i : i + step]) for i in range(0, len(inputs), step)]
    return np.concatenate(blocks) if blocks else np.zeros((0, layer.thresholds.units), bool)


def _block(layer: FirstLayer, inputs: NDArray[np.float64]) -> NDArray[np.bool_]:
    values, reach = _entries(layer, inputs)
    sums, error = _sums(layer, values, reach)
    thresholds = layer.thresholds
    signed = thresholds.sense * sums[:, thresholds.taken]
    slack = error[:, thresholds.taken]
    met = signed - slack >= thresholds.high
    open_ = ~met & ~(signed + slack < thresholds.low)
    exact_sums: dict[tuple[int, int], Fraction] = {}
    for row, unit, place in np.argwhere(open_):
        key = int(row), int(thresholds.taken[unit, place])
        if key not in exact_sums:
            exact_sums[key] = _exact_sum(layer, inputs[row], key[1])
        edge = thresholds.exact[thresholds.which[unit, place]]
        assert edge is not None
        met[row, unit, place] = int(thresholds.sense[unit, place]) * exact_sums[key] >= edge
    return thresholds.pooled(met)


def _entries(
    layer: FirstLayer, inputs: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The entries `[B, E]`, and the sums of absolute terms behind them."""
    values = np.where(layer.source < 0, 0.0, inputs[:, layer.source])
    reach = np.abs(values)
    for factor, offset in layer.steps:
        values = factor * values + offset
        reach = np.abs(factor) * reach + np.abs(offset)
    return values, reach


def _sums(
    layer: FirstLayer, values: NDArray[np.float64], reach: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The sums `[B, S]` and how far rounding may have moved each."""
    weight, gather = layer.patches.weight, layer.patches.gather
    patches, outside = values[:, gather], gather < 0
    widths = reach[:, gather]
    if outside.any():
        patches, widths = np.where(outside, 0.0, patches), np.where(outside, 0.0, widths)
    sums = np.swapaxes(patches @ weight.T, 1, 2).reshape(len(values), -1)
    sizes = np.swapaxes(widths @ np.abs(weight).T, 1, 2).reshape(len(values), -1)
    if not layer.steps and _rounds_nothing(weight, patches, float(sizes.max(initial=0.0))):
        return sums, np.zeros_like(sums)
    terms = gather.shape[1] + 2 * len(layer.steps) + 4
    return sums, gamma(2 * terms) * sizes


def _rounds_nothing(
    weight: NDArray[np.float64], patches: NDArray[np.float64], largest: float
) -> bool:
    """Whether all terms lie on one grid of numbers that float64 adds exactly."""
    if (weight != np.rint(weight)).any() or not np.isfinite(largest):
        return False
    grid = 2.0 ** (_DIGITS - 1 - np.ceil(np.log2(max(largest, 1.0))))
    scaled = patches * grid
    return bool((scaled == np.rint(scaled)).all())


def _exact_sum(layer: FirstLayer, point: NDArray[np.float64], which: int) -> Fraction:
    channel, place = divmod(which, len(layer.patches.gather))
    total = Fraction(0)
    for entry, weight in zip(
        layer.patches.gather[place].tolist(), layer.patches.weight[channel].tolist(), strict=True
    ):
        if entry < 0 or weight == 0.0:
            continue
        source = int(layer.source[entry])
        value = Fraction(0) if source < 0 else Fraction(float(point[source]))
        for factor, offset in layer.steps:
            value = Fraction(float(factor[entry])) * value + Fraction(float(offset[entry]))
        total += Fraction(weight) * value
    return total


def sum_bounds(
    layer: FirstLayer, lower: Float[np.ndarray, "D"], upper: Float[np.ndarray, "D"]
) -> SumBounds:
    """Bounds of every sum on the box, tight up to rounding."""
    low, high = lower[None], upper[None]
    ends = [_entries(layer, low), _entries(layer, high)]
    values = [np.minimum(ends[0][0], ends[1][0]), np.maximum(ends[0][0], ends[1][0])]
    reach = np.maximum(ends[0][1], ends[1][1])
    weight, gather = layer.patches.weight, layer.patches.gather
    positive, negative = np.maximum(weight, 0.0).T, np.minimum(weight, 0.0).T
    least, most, width = (np.where(gather < 0, 0.0, array[0, gather]) for array in (*values, reach))
    terms = 2 * gather.shape[1] + 2 * len(layer.steps) + 6
    error = gamma(2 * terms) * (width @ np.abs(weight).T)
    return SumBounds(
        (least @ positive + most @ negative - error).T.reshape(-1),
        (most @ positive + least @ negative + error).T.reshape(-1),
        error.T.reshape(-1),
    )


def fixed_signs(layer: FirstLayer, bounds: SumBounds) -> Int[np.ndarray, "U"]:
    """+1 and -1 where a unit has that sign on the whole box, 0 where it may have either."""
    thresholds = layer.thresholds
    ends = [thresholds.sense * end[thresholds.taken] for end in (bounds.lower, bounds.upper)]
    always = thresholds.pooled((np.minimum(*ends) >= thresholds.high)[None])[0]
    # A bound that is not a number, where float64 overflows, proves nothing.
    never = ~thresholds.pooled(~(np.maximum(*ends) < thresholds.low)[None])[0]
    return np.where(always, 1, np.where(never, -1, 0))
