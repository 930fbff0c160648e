"""How many pixels change."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from closegap.core.errors import OptionError
from closegap.core.numerics import gamma
from closegap.specs.objectives.base import Array, rounded_up
from closegap.specs.objectives.grid import Grid
from closegap.specs.objectives.separable import HalfBox
from closegap.specs.region import Region, lp_ball

__all__ = ["L0Distance"]


@dataclass(frozen=True)
class L0Distance:
    """The number of pixels with a channel that differs from the image. See `Objective`.

    Attributes:
        grid: which entries are one pixel.
    """

    grid: Grid

    name: ClassVar[str] = "l0"
    norm: ClassVar[None] = None
    integral: ClassVar[bool] = True

    @property
    def size(self) -> int:
        """See `Objective`."""
        return self.grid.size

    def value(self, image: Array, points: Array) -> Array:
        """See `Objective`."""
        changed = (points != image)[..., self.grid.entries]
        return np.asarray(changed.any(axis=-3).sum(axis=(-2, -1)), dtype=np.float64)

    def attained(self, image: Array, point: Array) -> float:
        """See `Objective`."""
        return float(self.value(image, point))

    def greatest(self, image: Array) -> float:
        """See `Objective`."""
        return float(self.grid.pixels)

    def region(self, image: Array, limit: float, shape: tuple[int, ...]) -> Region:
        """See `Objective`. An l1 ball: as far as the pixels can go that have the farthest to go."""
        if not (math.isfinite(limit) and limit >= 0):
            raise OptionError(f"a limit must be finite and not negative, got {limit}")
        if limit >= self.grid.pixels:
            return lp_ball(image.reshape(shape), 1.0)
        reach = np.maximum(image, 1 - image)[self.grid.entries].sum(axis=0).reshape(-1)
        farthest = np.sort(reach)[::-1][: int(limit)]
        radius = rounded_up(math.fsum(farthest) * (1 + gamma(self.grid.channels + 4)))
        return lp_ball(image.reshape(shape), radius, norm=1)

    def least(
        self, image: Array, gains: Array, offsets: Array, lower: Array, upper: Array
    ) -> Array:
        """See `Objective`. The pixels that gain most, each changed as far as it goes."""
        half = HalfBox.of(image, gains, offsets, lower, upper)
        still = (half.low <= 0) & (half.high >= 0)
        forced = np.bincount(self.grid.pixel_of, ~still, minlength=self.grid.pixels) > 0
        gain = half.gains * half.best
        each = gain[:, self.grid.entries].sum(axis=1).reshape(len(gain), -1)
        each = np.where(forced, 0.0, each)
        missing = half.need - (gain * forced[self.grid.pixel_of]).sum(axis=1)
        size = np.abs(half.need) + np.abs(gain).sum(axis=1)
        missing = missing - 4 * gamma(2 * image.size + 8) * size
        best = -np.sort(-each, axis=1)
        short = np.where(missing > 0, 1, 0) + (best.cumsum(axis=1) < missing[:, None]).sum(axis=1)
        count = np.minimum(short, (best > 0).sum(axis=1)) + forced.sum()
        return np.where(half.out_of_reach, np.inf, count.astype(np.float64))
