"""The sum of the changes plus the total variation they bring: sparse, and hard to see.

Source: Ben Mhenni, Ibn Khedher and Canu (2024). What is written there as a plain sum of differences
is `sum |x_q - x_p|` over neighbours (anisotropic) or `sum sqrt(right^2 + below^2)` over pixels
(isotropic; one-sided in the last row and column).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.core.errors import OptionError
from closegap.core.numerics import FLOAT64_UNIT, gamma
from closegap.specs.objectives.base import Array, Objective, farthest_corner, rounded_up
from closegap.specs.objectives.grid import Grid
from closegap.specs.objectives.l1 import tightened
from closegap.specs.objectives.relief import Relief, relief_of
from closegap.specs.objectives.separable import HalfBox, cheapest_rate, piecewise_least
from closegap.specs.objectives.variation import Variation, tilted_prices, variation_of
from closegap.specs.region import Prices, Region, lp_ball

__all__ = ["DEFAULT_KAPPA", "L1TvDistance", "VariationOf", "priced"]

VariationOf: TypeAlias = Literal["image", "difference"]

#: The largest round weight below 1/4. From 1/4 on it costs nothing to level a pixel that sticks out
#: of its four neighbours, and least points are smoothed pictures; far below, changes are those of
#: l1 and do not hide in texture.
DEFAULT_KAPPA = 0.2
#: The largest weight: beyond it rounding would hide the l1 part.
_HEAVIEST = 1e9


@dataclass(frozen=True)
class L1TvDistance:
    """`||x - image||_1 + kappa (TV(x) - TV(image))`, or `kappa TV(x - image)`. See `Objective`.

    A pixel has at most four neighbours in its channel, so with `of = "image"` the distance is at
    least `(1 - 4 kappa) ||x - image||_1`; with a larger `kappa` it may be negative.

    Attributes:
        grid: which entries are neighbours; channels count apart.
        kappa: weight of the total variation, from 0 to 1e9.
        of: whose total variation: the changed image's (less the clean one's), or the change's.
        isotropic: lengths of gradients in place of sums of absolute differences.

    Raises:
        OptionError: `kappa` is out of range, or `of` is neither.
    """

    grid: Grid
    kappa: float = DEFAULT_KAPPA
    of: VariationOf = "image"
    isotropic: bool = False

    name: ClassVar[str] = "l1+tv"
    norm: ClassVar[None] = None
    integral: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.kappa <= _HEAVIEST:
            raise OptionError(f"kappa must be from 0 to {_HEAVIEST:g}, got {self.kappa}")
        if self.of not in get_args(VariationOf):
            raise OptionError(f"the total variation is of {get_args(VariationOf)}, not {self.of!r}")

    @property
    def size(self) -> int:
        """See `Objective`."""
        return self.grid.size

    def variation(self, pictures: Array) -> Array:
        """Total variation of pictures `[..., D]`."""
        return np.asarray(self._variations(pictures).sum(axis=-1))

    def _variations(self, pictures: Array) -> Array:
        """Its terms, `[..., E]` or one for each entry."""
        first, second = self.grid.edges.T
        steps = pictures[..., second] - pictures[..., first]
        if not self.isotropic:
            return np.abs(steps)
        squares = np.zeros(pictures.shape)
        rightward = self.grid.channels * self.grid.height * (self.grid.width - 1)
        for part in (slice(0, rightward), slice(rightward, None)):  # no site twice in a part
            squares[..., self.grid.sites[part]] += steps[..., part] ** 2
        return np.asarray(np.sqrt(squares))

    def _touched(self, change: Array) -> NDArray[np.bool_]:
        """Which of its terms a change has a part in."""
        touched = (change != 0)[self.grid.edges].any(axis=1)
        if not self.isotropic:
            return np.asarray(touched)
        return np.asarray(np.bincount(self.grid.sites, touched, minlength=self.grid.size) > 0)

    def value(self, image: Array, points: Array) -> Array:
        """See `Objective`."""
        change = points - image
        sizes = np.abs(change).sum(axis=-1)
        if self.of == "difference":
            return np.asarray(sizes + self.kappa * self.variation(change))
        moved = self._variations(points) - self._variations(image)
        return np.asarray(sizes + self.kappa * moved.sum(axis=-1))

    def attained(self, image: Array, point: Array) -> float:
        """See `Objective`."""
        change = point - image
        if self.of == "difference":
            terms = self.kappa * self._variations(change)
            # A difference of changes may cancel, and keeps the rounding of both.
            lost = 16 * FLOAT64_UNIT * self.kappa * math.fsum(np.abs(change))
            return rounded_up(math.fsum(np.concatenate([np.abs(change), terms]))) + lost
        before, after = (self.kappa * self._variations(x) for x in (image, point))
        parts = np.concatenate([np.abs(change), after - before])
        moved = self._touched(change)  # float64 may lose a move beside a greater neighbour
        size = math.fsum(np.concatenate([np.abs(change), after[moved], before[moved]]))
        return math.fsum(parts) + 16 * FLOAT64_UNIT * size

    def greatest(self, image: Array) -> float:
        """See `Objective`. Every input as far as it goes, and every neighbour the other way."""
        far = np.abs(farthest_corner(image) - image)
        if self.of == "difference":
            steps, spared = far[self.grid.edges].sum(axis=1), 0.0
        else:  # no two entries are farther apart than 0 and 1
            steps, spared = np.ones(len(self.grid.edges)), math.fsum(self._variations(image))
        most = math.fsum(far) + self.kappa * math.fsum(steps)
        return rounded_up(most) * (1 + gamma(16)) - self.kappa * spared * (1 - gamma(16))

    def region(self, image: Array, limit: float, shape: tuple[int, ...]) -> Region:
        """See `Objective`. An l1 ball, in a box with every input's own limits."""
        if not math.isfinite(limit):
            raise OptionError(f"a limit must be finite, got {limit}")
        relief = self._relief(image)
        reach = np.maximum(image, 1 - image)
        floor = relief.floor(image)
        room = max(limit - floor + 8 * FLOAT64_UNIT * (abs(limit) - floor), 0.0)
        up, down = (relief.farthest(sign, room) for sign in (1, -1))
        total = min(relief.longest(reach, room), float(reach.sum()) * (1 + gamma(image.size)))
        ball = lp_ball(image.reshape(shape), rounded_up(total), norm=1)
        return tightened(ball, image - down, image + up)

    def least(
        self, image: Array, gains: Array, offsets: Array, lower: Array, upper: Array
    ) -> Array:
        """See `Objective`. By the sum of each input's own least cost, a fractional knapsack."""
        half = HalfBox.of(image, gains, offsets, lower, upper)
        relief = self._relief(image)
        stops = np.clip(relief.stops(), half.low, half.high)
        stops = np.concatenate([stops, half.low[None], half.high[None], half.rest[None]])
        costs, sizes = relief.costs(stops)
        bought, gained = _items(relief, half)
        rate = cheapest_rate(bought, gained, half.need - half.gains @ half.rest)
        bounds = piecewise_least(half, rate, stops, costs, sizes)
        floor = piecewise_least(half, 0 * rate, stops, costs, sizes)
        if self.of == "difference" or 4 * self.kappa <= 1:
            floor = np.fmax(floor, 0.0)
        return np.where(half.out_of_reach, np.inf, np.fmax(bounds, floor))

    def least_moved(
        self, image: Array, steep: Array, need: Array, lower: Array, upper: Array
    ) -> Array:
        """A lower bound, in exact arithmetic, of the value over changes d with a need of moves.

        Row q bounds `value(image + d)` over the box with `steep[q] @ |d| >= need[q]`.

        Args:
            image: `[D]`, in the box.
            steep: `[Q, D]`, not negative.
            need: `[Q]`.
            lower, upper: `[D]`.
        """
        far, none = np.maximum(upper - image, image - lower), np.zeros(image.size)
        half = HalfBox.of(none, steep, -need, none, np.where(far > 0, np.nextafter(far, 2), 0.0))
        sides = (
            HalfBox.of(image, half.gains, -need, image, upper),
            HalfBox.of(image, -half.gains, -need, lower, image),
        )
        relief = self._relief(image)
        items = [_items(relief, side) for side in sides]
        bought, gained = (np.concatenate(part, axis=1) for part in zip(*items, strict=True))
        low, high = sides[1].low, sides[0].high
        stops = np.concatenate([np.clip(relief.stops(), low, high), low[None], high[None]])
        costs, sizes = relief.costs(stops)
        rate = cheapest_rate(bought, gained, half.need)
        bounds = piecewise_least(half, rate, np.abs(stops), costs, sizes)
        floor = piecewise_least(half, 0 * rate, np.abs(stops), costs, sizes)
        if self.of == "difference" or 4 * self.kappa <= 1:
            floor = np.fmax(floor, 0.0)
        return np.where(half.out_of_reach, np.inf, np.fmax(bounds, floor))

    def least_along(
        self, half: HalfBox, variation: Variation, flows: Float[np.ndarray, "Q E"]
    ) -> Array:
        """As `least` for each row of a half box, by flows: exact at the best ones.

        Args:
            half: over what.
            variation: this distance's, of the image that the half box is around.
            flows: any, one row each.
        """
        reach = np.maximum(np.abs(half.low), np.abs(half.high))
        tilts, constants = variation.tilts(flows, reach)
        moved = np.abs(half.best - half.rest)
        bought = np.maximum(1 + np.sign(half.gains) * tilts, 0.0) * moved
        missing = half.need - half.gains @ half.rest
        rate = cheapest_rate(bought, np.abs(half.gains) * moved, missing)
        stops = np.stack([half.rest, half.low, half.high])
        costs = np.abs(stops)[:, None] + tilts * stops[:, None]
        sizes = (1 + 8 * self.kappa) * reach
        bounds = piecewise_least(half, rate, stops, costs, sizes) + constants
        bounds = bounds - 4 * FLOAT64_UNIT * (np.abs(bounds) + np.abs(constants))
        return np.where(half.out_of_reach, np.inf, bounds)

    def variation_around(self, image: Array) -> Variation:
        """The summand of total variation, of changes of an image."""
        origin = image if self.of == "image" else np.zeros(image.size)
        return variation_of(origin, self.grid, self.kappa, isotropic=self.isotropic)

    def prices(self, image: Array, limit: float) -> Prices:
        """What changes cost at least, so that all of a value of at most a limit are within it.

        By the flows of the gradients' own directions: an edge that shrinks pays for what moves its
        ends towards each other, and no edge is taken to be crossed.
        """
        variation = self.variation_around(image)
        reach = np.maximum(image, 1 - image)
        tilts, constants = variation.tilts(variation.start()[None].astype(np.float64), reach)
        return tilted_prices(tilts[0], reach, limit - float(constants[0]))

    def _relief(self, image: Array) -> Relief:
        kappa = self.kappa if self.of == "image" else 0.0
        return relief_of(image, self.grid, kappa, isotropic=self.isotropic)


def priced(objective: Objective, image: Array, limit: float) -> Prices | None:
    """What changes cost within a limit, where they have other prices than 1; else `None`."""
    if isinstance(objective, L1TvDistance) and math.isfinite(limit):
        return objective.prices(image, limit)
    return None


def _items(relief: Relief, half: HalfBox) -> tuple[Array, Array]:
    """Costs and gains of the stretches between bends, from rest to the best end, `[Q, S D]`."""
    bought, gained = [], []
    for sign in (1, -1):
        bends = np.stack([0 * half.low, *relief.bends(sign), np.full_like(half.low, np.inf)])
        most = half.high if sign > 0 else -half.low
        marks = np.clip(bends, np.maximum(sign * half.rest, 0.0), np.maximum(most, 0.0))
        costs = relief.costs(sign * marks)[0]
        side = sign * half.gains > 0
        for stretch, cost in zip(np.diff(marks, axis=0), np.diff(costs, axis=0), strict=True):
            bought.append(np.where(side, np.maximum(cost, 0.0), 0.0))
            gained.append(np.where(side, np.abs(half.gains) * stretch, 0.0))
    return np.concatenate(bought, axis=1), np.concatenate(gained, axis=1)
