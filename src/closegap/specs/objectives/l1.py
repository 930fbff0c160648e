"""The sum of the changes, each with its weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from closegap.core.errors import OptionError
from closegap.core.numerics import FLOAT64_UNIT
from closegap.specs.objectives.base import Array, farthest_corner, rounded_up
from closegap.specs.objectives.grid import Grid
from closegap.specs.objectives.separable import HalfBox, cheapest_rate, piecewise_least
from closegap.specs.region import Ball, Box, Region, bounding_box, lp_ball

__all__ = ["L1Distance", "tightened", "visibility_weights"]

#: Added to the local standard deviation, so that flat zones have finite weights.
_LEAST_DEVIATION = 0.05


@dataclass(frozen=True, eq=False)
class L1Distance:
    """`sum weights_i |x_i - image_i|`. See `Objective`.

    Attributes:
        weights: `[D]`, positive; `None` for 1 everywhere.

    Raises:
        OptionError: a weight is not positive and finite.
    """

    weights: Float[np.ndarray, "D"] | None = None

    def __post_init__(self) -> None:
        if self.weights is not None and not (np.isfinite(self.weights) & (self.weights > 0)).all():
            raise OptionError("weights of an l1 distance must be positive and finite")

    @property
    def name(self) -> str:
        """As in the registry."""
        return "l1" if self.weights is None else "weighted-l1"

    @property
    def norm(self) -> float | None:
        """See `Objective`."""
        return 1.0 if self.weights is None else None

    @property
    def integral(self) -> bool:
        """See `Objective`."""
        return False

    @property
    def size(self) -> int | None:
        """See `Objective`."""
        return None if self.weights is None else self.weights.size

    def weights_of(self, size: int) -> Float[np.ndarray, "D"]:
        """The weights, written out."""
        return np.ones(size) if self.weights is None else self.weights

    def value(self, image: Array, points: Array) -> Array:
        """See `Objective`."""
        return np.asarray((np.abs(points - image) * self.weights_of(image.size)).sum(axis=-1))

    def attained(self, image: Array, point: Array) -> float:
        """See `Objective`."""
        return rounded_up(math.fsum(np.abs(point - image) * self.weights_of(image.size)))

    def greatest(self, image: Array) -> float:
        """See `Objective`."""
        return self.attained(image, farthest_corner(image))

    def region(self, image: Array, limit: float, shape: tuple[int, ...]) -> Region:
        """See `Objective`. A box around every input's own limit, and an l1 ball."""
        if self.weights is None:
            return lp_ball(image.reshape(shape), rounded_up(limit), norm=1)
        ball = lp_ball(image.reshape(shape), rounded_up(limit / float(self.weights.min())), norm=1)
        reach = rounded_up(limit) / self.weights * (1 + 4 * FLOAT64_UNIT)
        return tightened(ball, image - reach, image + reach)

    def least(
        self, image: Array, gains: Array, offsets: Array, lower: Array, upper: Array
    ) -> Array:
        """See `Objective`. A fractional knapsack, by its dual."""
        half = HalfBox.of(image, gains, offsets, lower, upper)
        weights = self.weights_of(image.size)
        moved = np.abs(half.best - half.rest)
        missing = half.need - half.gains @ half.rest
        rate = cheapest_rate(weights * moved, np.abs(half.gains) * moved, missing)
        stops = np.stack([half.rest, half.low, half.high])
        costs = weights * np.abs(stops)
        bounds = piecewise_least(half, rate, stops, costs, costs.max(axis=0))
        floor = piecewise_least(half, 0 * rate, stops, costs, costs.max(axis=0))
        return np.where(half.out_of_reach, np.inf, np.fmax(np.fmax(bounds, floor), 0.0))


def tightened(region: Region, lower: Array, upper: Array) -> Region:
    """The region, within a flat box whose ends are rounded outward by an allowance."""
    box = bounding_box(region)
    shape = box.lower.shape
    low = np.nextafter(np.nextafter(lower, -np.inf), -np.inf).reshape(shape)
    high = np.nextafter(np.nextafter(upper, np.inf), np.inf).reshape(shape)
    inner = Box(np.maximum(box.lower, low), np.minimum(box.upper, high))
    if not isinstance(region, Ball):
        return inner
    return Ball(inner, region.center, region.radius, region.norm)


def visibility_weights(image: Float[np.ndarray, "D"], grid: Grid) -> Float[np.ndarray, "D"]:
    """`1 / (s + 0.05)`, s the standard deviation of the 3x3 neighbourhood in the input's channel.

    What lies beyond the border repeats the border. Changes show where a picture is flat.
    """
    picture = image[grid.entries]
    wide = np.pad(picture, ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), axis=(1, 2))
    weights = np.empty(grid.size)
    weights[grid.entries] = 1.0 / (windows.std(axis=(3, 4)) + _LEAST_DEVIATION)
    return weights
