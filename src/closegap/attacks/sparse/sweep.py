"""Tighter ranges of a node's units: only inputs count that are near and attain the target.

Layer by layer, each unit's plane plus a multiple of the margin's plane (at most 0 where the target
is attained) is minimised over the region, which holds every nearer input. One multiplier of the
margin and one of the region's radius are sought by search; whatever they are, the bound holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.sparse.ground import Ground
from closegap.attacks.sparse.planes import Functions, Planes, Proof, Ranges
from closegap.core.numerics import TINY, gamma

__all__ = ["Reach", "sweep"]

Array = NDArray[np.float64]

#: Multiples of the margin that are tried, of the ratio of both planes' slopes.
_MULTIPLES = (0.3, 1.0, 3.0)
#: Inputs among which the one that spends an l1 radius is sought, and 4 more for each unit of it.
_STEEPEST = 32
#: Steps to the multiplier of an l2 radius.
_SCALINGS = 3


@dataclass(frozen=True, eq=False)
class Reach:
    """The differences from the image that count: a box, perhaps a ball in it.

    Attributes:
        low, high: `[D]`.
        norm: 1 or 2; 0 for the box alone.
        radius: of the ball.
    """

    low: Float[np.ndarray, "D"]
    high: Float[np.ndarray, "D"]
    norm: int
    radius: float

    @cached_property
    def _ends(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.low.astype(np.float32), self.high.astype(np.float32)

    @classmethod
    def of(cls, ground: Ground) -> Reach:
        """The region of a ground."""
        low, high = ground.lower - ground.image, ground.upper - ground.image
        return cls(
            np.nextafter(low, -np.inf), np.nextafter(high, np.inf), ground.norm,
            float(np.nextafter(ground.radius, np.inf)),
        )  # fmt: skip

    def least(self, slopes: Float[np.ndarray, "B D"]) -> Array:
        """A lower bound of `slopes . difference`, in exact arithmetic, `[B]`."""
        weight = self._multiplier(slopes.astype(np.float32))
        return np.asarray(self._at(slopes, weight.astype(np.float64)), dtype=np.float64)

    def guess(self, slopes: NDArray[np.float32]) -> NDArray[np.floating]:
        """About the same, in float32."""
        return self._at(slopes, self._multiplier(slopes))

    def point(self, slopes: NDArray[np.float32]) -> NDArray[np.float32]:
        """About where the slopes are least, `[B, D]`."""
        low, high = self._ends
        corner = np.where(slopes > 0, low, high)
        if not self.norm:
            return corner
        weight = self._multiplier(slopes)[:, None]
        if self.norm == 2:
            return np.clip(-slopes / np.maximum(weight, np.float32(TINY)), low, high)
        size = np.abs(slopes)
        full = np.where(size > weight, corner, np.float32(0))
        last = np.where(size == weight, corner, np.float32(0))
        rest = self.radius - np.abs(full).sum(axis=1)
        share = rest / np.maximum(np.abs(last).sum(axis=1), TINY)
        return np.asarray(full + np.clip(share, 0, 1).astype(np.float32)[:, None] * last)

    def _multiplier(self, slopes: NDArray[np.float32]) -> NDArray[np.float32]:
        """About the best multiplier of the radius."""
        if not (self.norm and slopes.size):
            return np.zeros(len(slopes), dtype=np.float32)
        return self._l1(slopes) if self.norm == 1 else self._l2(slopes)

    def _l1(self, slopes: NDArray[np.float32]) -> NDArray[np.float32]:
        """The slope at which the steepest inputs, as far as they go, have spent the radius."""
        low, high = self._ends
        size = np.abs(slopes)
        most = min(slopes.shape[1], _STEEPEST + int(4 * self.radius))
        steep = np.argpartition(size, -most, axis=1)[:, -most:]
        size = np.take_along_axis(size, steep, axis=1)
        order = np.argsort(-size, axis=1)
        steep, size = (np.take_along_axis(a, order, axis=1) for a in (steep, size))
        falls = np.take_along_axis(slopes, steep, axis=1) > 0
        spent = np.where(falls, -low[steep], high[steep]).cumsum(axis=1)
        last = np.minimum((spent < self.radius).sum(axis=1), most - 1)
        found = np.take_along_axis(size, last[:, None], axis=1)[:, 0]
        return np.where((spent[:, -1] < self.radius) & (most == slopes.shape[1]), 0, found)

    def _l2(self, slopes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scaled until the minimiser's norm is about the radius."""
        low, high = self._ends
        radius = np.float32(self.radius)
        weight = np.sqrt((slopes**2).sum(axis=1)) / radius
        for _ in range(_SCALINGS):
            point = np.clip(-slopes / np.maximum(weight, np.float32(TINY))[:, None], low, high)
            weight = weight * np.sqrt((point**2).sum(axis=1)) / radius
        return np.asarray(weight)

    def _at(
        self, slopes: NDArray[np.floating], weight: NDArray[np.floating]
    ) -> NDArray[np.floating]:
        """The Lagrangian's least value over the box, less its rounding."""
        kind = slopes.dtype
        ends = self._ends if kind == np.float32 else (self.low, self.high)
        low, high = np.asarray(ends[0]), np.asarray(ends[1])
        price = weight[:, None]
        spent: NDArray[np.floating]
        terms: NDArray[np.floating]
        if self.norm == 2:
            safe = np.maximum(price, kind.type(TINY))
            point = np.clip(-slopes / safe, low, high)
            terms = slopes * point + price / 2 * point**2
            spent = weight / 2 * self.radius**2
        else:
            sides = (slopes + price) * high, (slopes - price) * low
            terms = np.minimum(0, np.minimum(*sides))
            spent = weight * self.radius if self.norm else 0 * weight
        steps = 4 * gamma(slopes.shape[1] + 16, float(np.finfo(kind).eps) / 2)
        reach = np.maximum(np.abs(low), np.abs(high))
        size = np.abs(slopes) @ reach + weight * reach.sum() * 2 + np.abs(spent)
        return np.asarray(terms.sum(axis=1) - spent - steps * size)


def sweep(planes: Planes, reach: Reach, ranges: Ranges, margins: list[Proof]) -> Ranges:
    """Ranges at least as tight, that hold wherever the margins' planes may be at most 0.

    Args:
        planes: of the ground.
        reach: holds every input that counts.
        ranges: of the node.
        margins: planes below the target's margin that hold in the node, one row each.
    """
    found = Ranges(ranges.low.copy(), ranges.high.copy())
    ground = planes.ground
    for number, layer in enumerate(ground.layers):
        units = layer.start + np.flatnonzero(found.free[layer])
        if not len(units):
            continue
        both = np.concatenate([units, units])
        sign = np.repeat([1.0, -1.0], len(units))
        functions = Functions(
            ground.weight[both], ground.bias[both], ground.slack[both]
        ).times(sign)  # fmt: skip
        y = planes.propagated(functions, found, number)
        proof = planes.proof(functions, y, found)
        best = np.full(len(both), -np.inf)
        for margin in margins:
            best = np.maximum(best, _constrained(reach, proof, margin))
        count = len(units)
        found.low[units] = np.fmax(found.low[units], best[:count])
        found.high[units] = np.fmin(found.high[units], -best[count:])
        if found.empty:
            break
    return found


def _constrained(reach: Reach, proof: Proof, margin: Proof) -> Array:
    """The planes' least values over the region where the margin's plane is at most 0."""
    slope, constant = margin.slopes[0], margin.constants[0]
    rough, steep = proof.slopes.astype(np.float32), slope.astype(np.float32)
    size = np.linalg.norm(rough, axis=1) / max(float(np.linalg.norm(steep)), TINY)
    best, factor = reach.guess(rough), np.zeros(len(rough))
    for multiple in _MULTIPLES:
        tried = (multiple * size).astype(np.float32)
        value = reach.guess(rough + tried[:, None] * steep) + tried * np.float32(constant)
        factor = np.where(value > best, tried, factor)
        best = np.maximum(best, value)
    total = proof.slopes + factor[:, None] * slope
    value = reach.least(total) + proof.constants + factor * constant
    far = np.maximum(np.abs(reach.low), np.abs(reach.high))
    scale = np.abs(proof.slopes) @ far + factor * (np.abs(slope) @ far)
    scale += np.abs(proof.constants) + np.abs(factor * constant)
    return np.asarray(value - gamma(16) * scale)
