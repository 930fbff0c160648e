"""The greatest change of an input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from closegap.core.numerics import FLOAT64_UNIT, gamma
from closegap.specs.objectives.base import Array, farthest_corner, rounded_up
from closegap.specs.objectives.separable import HalfBox
from closegap.specs.region import Region, lp_ball

__all__ = ["LinfDistance"]


@dataclass(frozen=True)
class LinfDistance:
    """`max |x_i - image_i|`. See `Objective`."""

    name: ClassVar[str] = "linf"
    norm: ClassVar[float] = math.inf
    integral: ClassVar[bool] = False
    size: ClassVar[None] = None

    def value(self, image: Array, points: Array) -> Array:
        """See `Objective`."""
        return np.asarray(np.abs(points - image).max(axis=-1, initial=0.0))

    def attained(self, image: Array, point: Array) -> float:
        """See `Objective`."""
        return rounded_up(float(self.value(image, point)))

    def greatest(self, image: Array) -> float:
        """See `Objective`."""
        return self.attained(image, farthest_corner(image))

    def region(self, image: Array, limit: float, shape: tuple[int, ...]) -> Region:
        """See `Objective`."""
        return lp_ball(image.reshape(shape), rounded_up(limit))

    def least(
        self, image: Array, gains: Array, offsets: Array, lower: Array, upper: Array
    ) -> Array:
        """See `Objective`.

        For any set of inputs: those outside it gain no more than in the box's best corner, those
        inside no more than the distance times their `|gains|`. The sets that are tried hold the
        inputs with the widest ranges.
        """
        half = HalfBox.of(image, gains, offsets, lower, upper)
        steep = np.abs(half.gains)
        reach = np.maximum(np.sign(half.gains) * half.best, 0.0)
        away = np.where(reach > 0, 0.0, half.gains * half.best)
        order = np.argsort(reach, axis=1, kind="stable")
        weights = np.take_along_axis(steep, order, axis=1)
        most = weights * np.take_along_axis(reach, order, axis=1)
        outside = most.cumsum(axis=1) - most
        inside = weights[:, ::-1].cumsum(axis=1)[:, ::-1]
        size = np.abs(half.need) + most.sum(axis=1) - away.sum(axis=1)
        relative = 2 * gamma(2 * image.size + 16)
        missing = (half.need - away.sum(axis=1) - relative * size)[:, None] - outside
        missing = np.maximum(missing - relative * size[:, None], 0.0)
        levels = np.where(inside > 0, missing / np.where(inside > 0, inside, 1.0), 0.0)
        level = levels.max(axis=1, initial=0.0) * (1 - relative)
        forced = float(np.abs(half.rest).max(initial=0.0)) * (1 - 4 * FLOAT64_UNIT)
        return np.where(half.out_of_reach, np.inf, np.maximum(level, forced))
