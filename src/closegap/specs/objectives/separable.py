"""Lower bounds of separable convex distances over half of a box, by one multiplier.

For any multiplier `m >= 0` of the half-space `gains . delta >= need`,

    value  >=  m need + sum_i min over delta_i in its range of (cost_i(delta_i) - m gains_i delta_i)

so a multiplier found in any way gives a bound, and only this evaluation has to be rounded down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from closegap.core.numerics import gamma
from closegap.specs.objectives.base import Array

__all__ = ["HalfBox", "cheapest_rate", "lowered", "piecewise_least"]


@dataclass(frozen=True, eq=False)
class HalfBox:
    """Differences from the image in a box, with `gains @ delta >= need` for each row.

    Attributes:
        gains: `[Q, D]`; a row that was not finite is zero.
        need: `[Q]`; of a row that was not finite, 0.
        low, high: `[D]`, what each difference may be; perhaps rounded, by `slack`.
        best: `[Q, D]`, the end of its range that gains most.
        out_of_reach: whether even the box's best corner provably gains too little.
    """

    gains: Float[np.ndarray, "Q D"]
    need: Float[np.ndarray, "Q"]
    low: Float[np.ndarray, "D"]
    high: Float[np.ndarray, "D"]
    best: Float[np.ndarray, "Q D"]
    out_of_reach: Bool[np.ndarray, "Q"]

    @classmethod
    def of(cls, image: Array, gains: Array, offsets: Array, lower: Array, upper: Array) -> HalfBox:
        """From rows and a box; ranges are rounded outward."""
        known = np.isfinite(gains).all(axis=1) & np.isfinite(offsets)
        rows = np.where(known[:, None], gains, 0.0)
        need = np.where(known, -offsets, 0.0)
        low = np.nextafter(lower - image, np.where(lower == image, 0.0, -np.inf))
        high = np.nextafter(upper - image, np.where(upper == image, 0.0, np.inf))
        best = np.where(rows > 0, high, low)
        with np.errstate(over="ignore", invalid="ignore"):
            most, size = (rows * best).sum(axis=1), (np.abs(rows) * np.abs(best)).sum(axis=1)
            beyond = most + 2 * gamma(image.size + 4) * size < need
        return cls(rows, need, low, high, best, beyond)

    @property
    def rest(self) -> Float[np.ndarray, "D"]:
        """The difference nearest to none in each range."""
        return np.asarray(np.clip(0.0, self.low, self.high))


def lowered(terms: Float[np.ndarray, "Q N"], size: Float[np.ndarray, "Q"]) -> Array:
    """The terms' sums, less the rounding of at most 8 operations in each of the terms.

    Args:
        terms: summands, each a few rounded operations.
        size: the sum of the magnitudes that went into them, cancelled or not.
    """
    allowance = 2 * gamma(terms.shape[1] + 16) * (size + np.abs(terms).sum(axis=1))
    return np.asarray(terms.sum(axis=1) - allowance)


def cheapest_rate(
    costs: Float[np.ndarray, "Q S"], gains: Float[np.ndarray, "Q S"], need: Float[np.ndarray, "Q"]
) -> Float[np.ndarray, "Q"]:
    """The cost for each unit of gain at which `need` is met: a fractional knapsack's last item.

    Args:
        costs: of whole items, not negative.
        gains: of whole items, not negative; an item without gain is never bought.
        need: what the gains must come to.

    Returns:
        a rate for each row; 0 where nothing is needed, the greatest where all is not enough.
    """
    rates = np.where(gains > 0, costs / np.where(gains > 0, gains, 1.0), np.inf)
    order = np.argsort(rates, axis=1, kind="stable")
    sorted_rates = np.take_along_axis(rates, order, axis=1)
    reached = np.take_along_axis(gains, order, axis=1).cumsum(axis=1)
    useful = np.isfinite(sorted_rates).sum(axis=1)
    place = np.minimum((reached < need[:, None]).sum(axis=1), useful - 1)
    rate = np.take_along_axis(sorted_rates, np.maximum(place, 0)[:, None], axis=1)[:, 0]
    return np.where((need > 0) & (useful > 0), rate, 0.0)


def piecewise_least(
    half: HalfBox,
    multiplier: Float[np.ndarray, "Q"],
    stops: Float[np.ndarray, "S D"],
    costs: Float[np.ndarray, "S *Q D"],
    sizes: Float[np.ndarray, "D"],
) -> Float[np.ndarray, "Q"]:
    """The bound of a distance with piecewise linear costs.

    Args:
        half: over what.
        multiplier: not negative.
        stops: differences where a cost bends or its range ends, clipped into the range.
        costs: at the stops, the same for all rows or not.
        sizes: the magnitudes that went into the costs.
    """
    moved = multiplier[:, None] * half.gains
    terms = costs[0] - moved * stops[0]
    for stop, cost in zip(stops[1:], costs[1:], strict=True):
        terms = np.minimum(terms, cost - moved * stop)
    wanted = multiplier * half.need
    reach = np.maximum(np.abs(half.low), np.abs(half.high))
    size = np.abs(wanted) + sizes.sum() + np.abs(moved) @ reach
    return lowered(np.concatenate([terms, wanted[:, None]], axis=1), size)
