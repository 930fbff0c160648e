"""The Euclidean length of the change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from closegap.core.numerics import FLOAT64_UNIT
from closegap.specs.objectives.base import Array, farthest_corner, rounded_up
from closegap.specs.objectives.separable import HalfBox, lowered
from closegap.specs.region import Region, lp_ball

__all__ = ["L2Distance"]


@dataclass(frozen=True)
class L2Distance:
    """`sqrt(sum (x_i - image_i)^2)`. See `Objective`."""

    name: ClassVar[str] = "l2"
    norm: ClassVar[float] = 2.0
    integral: ClassVar[bool] = False
    size: ClassVar[None] = None

    def value(self, image: Array, points: Array) -> Array:
        """See `Objective`."""
        return np.asarray(np.sqrt(((points - image) ** 2).sum(axis=-1)))

    def attained(self, image: Array, point: Array) -> float:
        """See `Objective`."""
        return rounded_up(math.sqrt(math.fsum((point - image) ** 2)))

    def greatest(self, image: Array) -> float:
        """See `Objective`."""
        return self.attained(image, farthest_corner(image))

    def region(self, image: Array, limit: float, shape: tuple[int, ...]) -> Region:
        """See `Objective`."""
        return lp_ball(image.reshape(shape), rounded_up(limit), norm=2)

    def least(
        self, image: Array, gains: Array, offsets: Array, lower: Array, upper: Array
    ) -> Array:
        """See `Objective`. By the Lagrangian dual of half the squared length."""
        half = HalfBox.of(image, gains, offsets, lower, upper)
        multiplier = _multiplier(half)
        moved = multiplier[:, None] * half.gains
        step = np.clip(moved, half.low, half.high)
        wanted = (multiplier * half.need)[:, None]
        terms = np.concatenate([step * (step / 2 - moved), wanted], axis=1)
        size = (step**2 + np.abs(moved * step)).sum(axis=1) + np.abs(wanted[:, 0])
        dual = lowered(terms, size)
        forced = lowered(half.rest[None] ** 2, (half.rest[None] ** 2).sum(axis=1))
        squared = np.fmax(np.where(np.isfinite(dual), 2 * dual, 0.0), np.maximum(forced, 0.0))
        return np.where(half.out_of_reach, np.inf, np.sqrt(squared) * (1 - 8 * FLOAT64_UNIT))


def _multiplier(half: HalfBox) -> Array:
    """Where `gains @ clip(multiplier * gains, low, high)` reaches what is needed, up to rounding.

    The gain grows in the multiplier, piecewise linearly: by `gains^2` for each input between the
    multipliers at which it starts and ends to move.
    """
    sign = np.sign(half.gains)
    steep = np.where(sign == 0, 1.0, np.abs(half.gains))
    starts = np.where(sign == 0, 0.0, np.maximum(sign * half.rest, 0.0) / steep)
    ends = np.where(sign == 0, 0.0, np.maximum(sign * half.best, 0.0) / steep)
    squares = half.gains**2
    places = np.concatenate([starts, ends], axis=1)
    order = np.argsort(places, axis=1, kind="stable")
    places = np.take_along_axis(places, order, axis=1)
    slopes = np.concatenate([squares, -squares], axis=1)
    slopes = np.maximum(np.take_along_axis(slopes, order, axis=1).cumsum(axis=1), 0.0)
    base = (half.gains * np.clip(0.0, half.low, half.high)).sum(axis=1)
    steps = np.diff(places, axis=1) * slopes[:, :-1]
    reached = np.concatenate([base[:, None], base[:, None] + steps.cumsum(axis=1)], axis=1)
    last = np.maximum((reached < half.need[:, None]).sum(axis=1) - 1, 0)[:, None]
    at, slope, gained = (
        np.take_along_axis(a, last, axis=1)[:, 0] for a in (places, slopes, reached)
    )
    further = np.where(slope > 0, (half.need - gained) / np.where(slope > 0, slope, 1.0), 0.0)
    return np.where(half.need > base, at + np.maximum(further, 0.0), 0.0)
