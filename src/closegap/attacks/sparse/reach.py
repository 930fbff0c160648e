"""The inputs that may be nearer than the best: a box, perhaps a ball in it; linear functions there.

Where total variation counts, a ball of tilted l1 for any flows (`specs/objectives/variation.py`):
`sum |d_i| + tilt . d + constant <= limit`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.sparse.ground import Ground
from closegap.core.numerics import TINY, gamma
from closegap.specs.objectives import Grid, L0Distance, L1TvDistance, Objective
from closegap.specs.objectives.variation import Variation

__all__ = ["Reach", "Tilted"]

Array = NDArray[np.float64]

#: Inputs among which the one that spends an l1 radius is sought, and 4 more for each unit of it.
_STEEPEST = 32
#: Steps to the multiplier of an l2 radius.
_SCALINGS = 3
#: A tilt makes no change cheaper than this (for `kappa` above 1/4).
_CHEAPEST = np.float32(2**-10)
#: Steps of flows, times the gradients: the first one, and what each is to the one before. Longer
#: ones throw away what flows had reached before.
_RATE, _DECAY = 0.3, 0.95


#: Slopes may be too large for single precision: what is not finite then is no bound.
_QUIET = np.errstate(over="ignore", invalid="ignore", divide="ignore")


@dataclass(frozen=True, eq=False)
class Tilted:
    """Balls `sum |d_i| + slopes . d <= room`, one for each function.

    Attributes:
        slopes: `[B, D]`; `[1]`, 0, for balls of l1.
        room: `[B]`, or `[1]`; empty balls where it is negative.
    """

    slopes: NDArray[np.float32]
    room: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Reach:
    """The differences from the image that count: a box, perhaps a ball in it.

    Attributes:
        low, high: `[D]`.
        norm: 1 or 2; 0 for the box alone.
        radius: of the ball.
        limit: of the distance.
        variation: the distance's, beside an l1 norm; or `None`.
        grid: whose pixels are counted; or `None`.
        count: how many of them may change, then.
    """

    low: Float[np.ndarray, "D"]
    high: Float[np.ndarray, "D"]
    norm: int
    radius: float
    limit: float = math.inf
    variation: Variation | None = None
    grid: Grid | None = None
    count: int = 0

    @cached_property
    def _ends(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.low.astype(np.float32), self.high.astype(np.float32)

    @cached_property
    def _round(self) -> Tilted:
        """The l1 ball itself."""
        most = min(self.radius, float(np.finfo(np.float32).max))
        return Tilted(np.zeros(1, np.float32), np.full(1, most, np.float32))

    def _far(self, slopes: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far each input can go in the direction that lowers."""
        low, high = self._ends
        return np.where(slopes > 0, -low, high)

    @classmethod
    def of(cls, ground: Ground, objective: Objective | None = None) -> Reach:
        """The region of a ground, and of an objective's variation."""
        low, high = ground.lower - ground.image, ground.upper - ground.image
        # An image's own ends leave no room at all, and no subnormal one.
        down = np.where(ground.lower == ground.image, 0.0, -np.inf)
        up = np.where(ground.upper == ground.image, 0.0, np.inf)
        variation, grid, count = None, None, 0
        if isinstance(objective, L0Distance) and math.isfinite(ground.limit):
            grid, count = objective.grid, max(math.ceil(ground.limit) - 1, 0)
        if isinstance(objective, L1TvDistance) and math.isfinite(ground.limit):
            variation = objective.variation_around(ground.image)
        return cls(
            np.nextafter(low, down), np.nextafter(high, up), ground.norm,
            float(np.nextafter(ground.radius, np.inf)),
            float(np.nextafter(ground.limit, np.inf)), variation, grid, count,
        )  # fmt: skip

    @_QUIET
    def least(self, slopes: Float[np.ndarray, "B D"]) -> Array:
        """A lower bound of `slopes . difference`, in exact arithmetic, `[B]`.

        Minus infinity, which is none, where slopes are too large for a sum.
        """
        if self.grid is not None:
            return _finite(self._counted(slopes))
        weight = self._multiplier(slopes.astype(np.float32))
        return _finite(self._at(slopes, weight.astype(np.float64)))

    def _pixels(
        self, slopes: NDArray[np.floating]
    ) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
        """What each pixel can lower a function by, and the pixels that can most."""
        assert self.grid is not None
        gains = np.abs(slopes) * np.where(slopes > 0, -self.low, self.high).astype(slopes.dtype)
        each = gains[:, self.grid.entries].sum(axis=1).reshape(len(slopes), -1)
        first = each.shape[1] - min(self.count, each.shape[1])
        at = min(first, each.shape[1] - 1)
        return each, np.argpartition(each, at, axis=1)[:, first:]

    def _counted(self, slopes: Float[np.ndarray, "B D"]) -> Array:
        """As `least`, where so many pixels change."""
        each, best = self._pixels(slopes)
        size = np.abs(slopes) @ np.maximum(np.abs(self.low), np.abs(self.high))
        lowered = np.take_along_axis(each, best, axis=1).sum(axis=1)
        return np.asarray(-lowered - 2 * gamma(slopes.shape[1] + 16) * size, dtype=np.float64)

    @_QUIET
    def guess(self, slopes: NDArray[np.float32]) -> NDArray[np.floating]:
        """About the same, in float32."""
        if self.grid is not None:
            each, best = self._pixels(slopes)
            return np.asarray(-np.take_along_axis(each, best, axis=1).sum(axis=1))
        return self._at(slopes, self._multiplier(slopes))

    @_QUIET
    def point(
        self, slopes: NDArray[np.float32], tilted: Tilted | None = None
    ) -> NDArray[np.float32]:
        """About where the slopes are least, `[B, D]`."""
        low, high = self._ends
        corner = np.where(slopes > 0, low, high)
        if tilted is not None:
            return self._filled(slopes, corner, tilted)
        if self.grid is not None:
            chosen = np.zeros((len(slopes), self.grid.pixels), dtype=bool)
            np.put_along_axis(chosen, self._pixels(slopes)[1], True, axis=1)
            return np.where(chosen[:, self.grid.pixel_of], corner, np.float32(0))
        if not self.norm:
            return corner
        if self.norm == 2:
            weight = self._multiplier(slopes)[:, None]
            return np.clip(-slopes / np.maximum(weight, np.float32(TINY)), low, high)
        return self._filled(slopes, corner, self._round)

    def _filled(
        self, slopes: NDArray[np.float32], corner: NDArray[np.float32], tilted: Tilted
    ) -> NDArray[np.float32]:
        """What pays best goes to its end, until a ball is full."""
        rates, spends = _market(slopes, np.abs(corner), tilted)
        weight = self._last(rates, spends, tilted.room)[:, None]
        above = rates > weight
        full = np.where(above, corner, np.float32(0))
        last = np.where((rates == weight) & (weight > 0), corner, np.float32(0))
        rest = tilted.room - np.where(above, spends, np.float32(0)).sum(axis=1)
        share = rest / np.maximum(np.where(last != 0, spends, np.float32(0)).sum(axis=1), TINY)
        return np.asarray(full + np.clip(share, 0, 1).astype(np.float32)[:, None] * last)

    def tilted(self, flows: NDArray[np.float32]) -> Tilted | None:
        """About the balls of flows."""
        if self.variation is None:
            return None
        tilts, constants = self.variation.guessed(flows)
        return Tilted(tilts, np.float32(self.limit) - constants)

    @_QUIET
    def raised(
        self, slopes: NDArray[np.float32], flows: NDArray[np.float32], steps: int
    ) -> NDArray[np.float32]:
        """Flows under which the slopes' least values are greater, or the same ones `[B, E]`."""
        assert self.variation is not None
        kept, best = flows, np.full(len(slopes), -np.inf)
        for step in range(steps):
            point = self.point(slopes, self.tilted(flows))
            value = (slopes * point).sum(axis=1)
            better = value > best
            kept, best = np.where(better[:, None], flows, kept), np.where(better, value, best)
            flows = self.climbed(flows, point, step)
        return np.asarray(kept, dtype=np.float32)

    def climbed(
        self,
        flows: NDArray[np.float32],
        points: NDArray[np.float32],
        step: int,
        pace: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """One step of flows, along the gradients at the minimisers; of paces `[B, 1]`, or 1."""
        assert self.variation is not None
        rate = np.float32(_RATE * _DECAY**step)
        gradient = self.variation.moved(points)
        if pace is not None:
            gradient = gradient * pace
        return self.variation.projected(flows + rate * gradient)

    @_QUIET
    def least_along(self, slopes: Float[np.ndarray, "B D"], flows: NDArray[np.float32]) -> Array:
        """As `least`, by flows."""
        assert self.variation is not None
        low, high = self.low, self.high
        far = np.maximum(np.abs(low), np.abs(high))
        rough = self.tilted(flows)
        assert rough is not None
        single = slopes.astype(np.float32)
        rates, spends = _market(single, self._far(single), rough)
        weight = self._last(rates, spends, rough.room).astype(np.float64)
        tilts, constants = self.variation.tilts(flows.astype(np.float64), far)
        price = weight[:, None]
        sides = (slopes + price * (1 + tilts)) * high, (slopes - price * (1 - tilts)) * low
        terms = np.minimum(0, np.minimum(*sides)).sum(axis=1)
        spent = weight * (self.limit - constants)
        tall = 1 + 8 * self.variation.kappa
        size = np.abs(slopes) @ far + weight * far.sum() * 2 * tall + np.abs(spent)
        size += weight * (np.abs(constants) + abs(self.limit))
        return _finite(terms - spent - 4 * gamma(slopes.shape[1] + 16) * size)

    def _multiplier(self, slopes: NDArray[np.float32]) -> NDArray[np.float32]:
        """About the best multiplier of the radius."""
        if not (self.norm and slopes.size):
            return np.zeros(len(slopes), dtype=np.float32)
        if self.norm == 2:
            found = self._l2(slopes)
        else:
            rates, spends = _market(slopes, self._far(slopes), self._round)
            found = self._last(rates, spends, self._round.room)
        return np.where(np.isfinite(found), found, np.float32(0))  # any multiplier gives a bound

    def _last(
        self, rates: NDArray[np.float32], spends: NDArray[np.float32], room: NDArray[np.floating]
    ) -> NDArray[np.float32]:
        """The rate at which what pays best, as far as it goes, has filled each ball."""
        count = rates.shape[1]
        wide = 4.0 * max(float(room.max(initial=0.0)), 0.0)
        most = min(count, _STEEPEST + int(min(count, wide)))
        steep = np.argpartition(rates, -most, axis=1)[:, -most:]
        best = np.take_along_axis(rates, steep, axis=1)
        order = np.argsort(-best, axis=1)
        best = np.take_along_axis(best, order, axis=1)
        spent = np.take_along_axis(spends, np.take_along_axis(steep, order, axis=1), axis=1)
        spent = spent.cumsum(axis=1)
        last = np.minimum((spent < room[:, None]).sum(axis=1), most - 1)
        found = np.take_along_axis(best, last[:, None], axis=1)[:, 0]
        return np.where((spent[:, -1] < room) & (most == count), np.float32(0), found)

    def _l2(self, slopes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled until the minimiser's norm is about the radius."""
        low, high = self._ends
        radius, point = np.float32(self.radius), np.empty_like(slopes)
        weight = np.sqrt(np.einsum("nd,nd->n", slopes, slopes)) / radius
        for _ in range(_SCALINGS):
            np.divide(slopes, -np.maximum(weight, np.float32(TINY))[:, None], out=point)
            np.clip(point, low, high, out=point)
            weight = weight * np.sqrt(np.einsum("nd,nd->n", point, point)) / radius
        return np.asarray(weight)

    def _at(
        self, slopes: NDArray[np.floating], weight: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """The Lagrangian's least value over the box, less its rounding."""
        kind = slopes.dtype
        ends = self._ends if kind == np.float32 else (self.low, self.high)
        low, high = np.asarray(ends[0]), np.asarray(ends[1])
        if self.norm == 2:  # one that is too small to divide by is none
            weight = np.where(weight < TINY, kind.type(0), weight)
        price = weight[:, None]
        spent: NDArray[np.floating]
        total: NDArray[np.floating]
        if self.norm == 2:
            point = np.divide(slopes, -np.maximum(price, kind.type(TINY)))
            np.clip(point, low, high, out=point)
            flat = np.flatnonzero(weight <= 0)
            point[flat] = np.where(slopes[flat] > 0, low, high)
            half = price / 2 * point
            half += slopes
            total = np.einsum("nd,nd->n", half, point)
            spent = weight / 2 * self.radius**2
        else:
            sides = (slopes + price) * high, (slopes - price) * low
            total = np.minimum(0, np.minimum(*sides)).sum(axis=1)
            spent = weight * self.radius if self.norm else 0 * weight
        steps = 4 * gamma(slopes.shape[1] + 16, float(np.finfo(kind).eps) / 2)
        reach = np.maximum(np.abs(low), np.abs(high))
        size = np.abs(slopes) @ reach + weight * reach.sum() * 2 + np.abs(spent)
        return np.asarray(total - spent - steps * size)


def _finite(bounds: NDArray[np.floating]) -> Array:
    """Bounds, none of them where a sum had no value."""
    return np.where(np.isfinite(bounds), bounds, -np.inf).astype(np.float64)


def _market(
    slopes: NDArray[np.float32], far: NDArray[np.float32], tilted: Tilted
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is won for each unit of a ball's room, and how much room each input can take."""
    size = np.abs(slopes)
    if tilted.slopes.ndim == 1:
        return size, far
    prices = np.maximum(1 - np.sign(slopes) * tilted.slopes, _CHEAPEST)
    return np.asarray(size / prices, dtype=np.float32), far * prices
