"""The real first layer: its signs decided in exact arithmetic, and its sums over a box.

Sums are evaluated in float64 with their rounding bounded; where that leaves a sign open, rational
arithmetic decides. So every input has the signs that the weights define, ties included.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from closegap.core.numerics import FLOAT64_UNDERFLOW, FLOAT64_UNIT, gamma
from closegap.graph.binarized.products import PatchIndex, blocks, extreme
from closegap.graph.binarized.records import FirstLayer

__all__ = ["FirstSigns", "SumBounds", "fixed_signs", "sum_bounds"]

#: Types and how many binary digits of an integer they hold.
_KINDS: tuple[tuple[type[np.floating[Any]], int], ...] = ((np.float32, 24), (np.float64, 53))
#: Float64 products of at least this size lose a share of themselves, and that share is normal too.
_NORMAL = float(np.finfo(np.float64).smallest_normal) / FLOAT64_UNIT


@dataclass(frozen=True, eq=False)
class SumBounds:
    """Sound bounds of every sum over a box, rounding included.

    `rounding` bounds what float64 loses of a sum anywhere on the box, however it is written out.
    """

    lower: Float[np.ndarray, "S"]
    upper: Float[np.ndarray, "S"]
    rounding: Float[np.ndarray, "S"]


class FirstSigns:
    """The exact signs of a first layer at float64 inputs (float32 ones are among them).

    Args:
        layer: whose signs.
    """

    def __init__(self, layer: FirstLayer) -> None:
        self._layer = layer
        self._index = PatchIndex.of(layer.patches)
        self._sizes, which = np.unique(np.abs(layer.patches.weight), axis=0, return_inverse=True)
        self._size = which.reshape(-1)

    def __call__(self, inputs: Float[np.ndarray, "B D"]) -> Bool[np.ndarray, "B U"]:
        """The signs (True is +1)."""
        thresholds, kind = self._layer.thresholds, self._exact_kind(inputs)
        signs = np.empty((thresholds.units, len(inputs)), bool)
        for part in blocks(len(inputs), self._layer.patches.sums):
            block = inputs[part]
            met = self._met(block) if kind is None else self._exact[kind].met(block.astype(kind))
            signs[:, part] = extreme(thresholds, met)
        return signs.T

    @cached_property
    def _exact(self) -> dict[type[np.floating[Any]], _WholeSums]:
        return {kind: _whole_sums(self._layer, self._index, kind) for kind, _ in _KINDS}

    def _exact_kind(self, inputs: NDArray[np.float64]) -> type[np.floating[Any]] | None:
        """A type that holds every partial sum exactly; `None` where none is known to.

        With whole weights and inputs on one grid, partial sums are multiples of its step, and at
        most the greatest input times the greatest sum of absolute weights.
        """
        weight = self._layer.patches.weight
        if self._layer.steps or (weight != np.rint(weight)).any():
            return None
        largest = np.abs(inputs).max(initial=1.0) * np.abs(weight).sum(axis=1).max(initial=1.0)
        for kind, digits in _KINDS:
            if not largest <= np.finfo(kind).max:
                continue
            grid = 2.0 ** (digits - 1 - np.ceil(np.log2(largest)))
            # An input that vanishes on the grid is not on it: hence the way back.
            if (np.rint(inputs * grid) / grid == inputs).all():
                return kind
        return None

    def _met(self, inputs: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which conditions hold, `[U, k, B]`: by float64 sums, exact ones where those may err."""
        layer = self._layer
        sums, error = self._sums(inputs)
        thresholds = layer.thresholds
        signed = thresholds.sense[..., None] * sums[thresholds.taken]
        slack = error[thresholds.taken]
        met = signed - slack >= thresholds.high[..., None]
        open_ = ~met & ~(signed + slack < thresholds.low[..., None])
        # What always or never holds does so for sums that float64 cannot hold, too.
        met[np.isneginf(thresholds.high)] = True
        open_[np.isinf(thresholds.high)] = False
        exact_sums: dict[tuple[int, int], Fraction] = {}
        for unit, place, row in np.argwhere(open_):
            key = int(row), int(thresholds.taken[unit, place])
            if key not in exact_sums:
                exact_sums[key] = _exact_sum(layer, inputs[row], key[1])
            edge = thresholds.exact[thresholds.which[unit, place]]
            assert edge is not None
            met[unit, place, row] = int(thresholds.sense[unit, place]) * exact_sums[key] >= edge
        return np.asarray(met)

    def _sums(self, inputs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The sums `[S, B]` and how far rounding may have moved each."""
        layer = self._layer
        values, reach = _entries(layer, inputs)
        sums = self._index.sums(layer.patches.weight, values.T)
        sizes = self._index.sums(self._sizes, reach.T)
        each = sizes.reshape(len(self._sizes), -1, len(inputs))[self._size]
        terms = self._index.rows.shape[0] + 2 * len(layer.steps) + 4
        error = gamma(2 * terms) * each.reshape(sums.shape) + _underflow(layer, inputs)
        return sums, np.where(np.isfinite(sums), error, np.inf)


@dataclass(frozen=True, eq=False)
class _WholeSums:
    """Conditions of sums that a type holds exactly.

    Attributes:
        source, taken: of the layer.
        index: of its patches.
        weight: in that type.
        sense, least: of the thresholds, `[U, k, 1]`: the least number of the type that meets each.
    """

    source: NDArray[np.int64]
    index: PatchIndex
    weight: NDArray[np.floating[Any]]
    taken: NDArray[np.int64]
    sense: NDArray[np.floating[Any]]
    least: NDArray[np.floating[Any]]

    def met(self, inputs: NDArray[np.floating[Any]]) -> NDArray[np.bool_]:
        """Which conditions hold, `[U, k, B]`."""
        entries = np.where(self.source[:, None] < 0, 0, inputs.T[self.source])
        each = self.index.sums(self.weight, entries)[self.taken]
        each *= self.sense
        return np.asarray(each >= self.least)


def _whole_sums(layer: FirstLayer, index: PatchIndex, kind: type[np.floating[Any]]) -> _WholeSums:
    thresholds = layer.thresholds
    with np.errstate(over="ignore"):
        least = thresholds.high.astype(kind)
    least = np.where(least < thresholds.high, np.nextafter(least, kind(np.inf)), least)
    return _WholeSums(
        layer.source,
        index,
        layer.patches.weight.astype(kind),
        thresholds.taken,
        thresholds.sense[..., None].astype(kind),
        least[..., None],
    )


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


def _underflow(layer: FirstLayer, inputs: NDArray[np.float64]) -> float:
    """What products below float64's normal numbers may cost a sum; 0 where there can be none.

    It holds for the terms written out with all factors multiplied first, too.
    """
    terms = 2 * layer.patches.gather.shape[1] * (len(layer.steps) + 1)
    least, most = _sizes(inputs)
    for factor, offset in layer.steps:
        (small, large), (low, high) = _sizes(factor), _sizes(offset)
        least, most = min(least * small, low), max(most * large, high)
    small, large = _sizes(layer.patches.weight)
    if least * small >= _NORMAL:
        return 0.0
    return float(2 * terms * FLOAT64_UNDERFLOW * most * large)


def _sizes(values: NDArray[np.float64]) -> tuple[float, float]:
    """The least of 1 and the sizes that are not zero, and the greatest of 1 and the sizes."""
    sizes = np.abs(values)
    return float(sizes.min(where=sizes > 0, initial=1.0)), float(sizes.max(initial=1.0))


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
    error += _underflow(layer, np.concatenate([low, high]))
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
