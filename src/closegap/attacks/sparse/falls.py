"""How far linear functions fall in a region around 0, in single precision, rounding subtracted.

All terms of the sums have one sign, so single precision loses a share of the sum itself.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.sparse.reach import Reach
from closegap.core.numerics import FLOAT32_UNIT, TINY, gamma

__all__ = ["Falls"]

#: Steps to the multiplier of an l2 radius.
_SCALINGS = 2


class Falls:
    """Least values over a box around 0, perhaps within a ball.

    Args:
        reach: of pixels that are counted, or of total variation, the ball and the box alone.
    """

    def __init__(self, reach: Reach) -> None:
        self.norm, self.radius = reach.norm, reach.radius
        self._far = np.maximum(np.abs(reach.low), np.abs(reach.high))
        self._low, self._high = -_outward(-reach.low), _outward(reach.high)
        long = max(float(self._far[self._far > 0].mean()), TINY) if self._far.any() else 1.0
        most = max(len(self._far), 1)
        self._steepest = math.ceil(min(max(self.radius / long, 1.0), most))
        self._falls, self._rises = (
            (end != 0).astype(np.float32) for end in (self._low, self._high)
        )

    def most(self, rows: Float[np.ndarray, "N D"]) -> NDArray[np.float64]:
        """How far rows fall at most, whatever the signs of their entries `[N]`."""
        size = np.abs(rows)
        found = size @ self._far
        if self.norm == 2:
            found = np.minimum(found, self.radius * np.sqrt((size**2).sum(axis=1)))
        if self.norm == 1:
            found = np.minimum(found, self.radius * size.max(axis=1, initial=0.0))
        return np.asarray(found * (1 + 4 * gamma(rows.shape[1] + 16)))

    def least(self, rows: Float[np.ndarray, "N D"]) -> NDArray[np.float64]:
        """Lower bounds, in exact arithmetic, of float32 rows' least values `[N]`.

        Minus infinity where single precision cannot hold the sums.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._least(rows)
        return np.where(np.isfinite(found), found, -np.inf)

    def _least(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        if self.norm == 2:
            weight = self._stretched(rows)
            spent, total = self.radius**2 / 2, self._round(rows, weight)
        elif self.norm == 1:
            weight = self._price(rows)
            spent, total = self.radius, self._flat(rows, weight)
        else:
            weight = np.zeros(len(rows), dtype=np.float32)
            spent, total = 0.0, self._flat(rows, weight)
        wide = total.astype(np.float64) * (1 + 2 * gamma(rows.shape[1] + 16, FLOAT32_UNIT))
        paid = weight.astype(np.float64) * spent
        return np.asarray((wide - paid) - gamma(8) * (np.abs(wide) + paid) - TINY * rows.shape[1])

    def _flat(self, rows: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is left of rows over the box once each change costs so much."""
        price = weight[:, None]
        up = np.minimum(rows + price, np.float32(0))
        down = np.maximum(rows - price, np.float32(0))
        return np.asarray(up @ self._high + down @ self._low)

    def _round(self, rows: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """The same where half of each change's square has a price, which is positive."""
        point = np.divide(rows, -weight[:, None])
        np.clip(point, self._low, self._high, out=point)
        slope = (weight / np.float32(2))[:, None] * point
        slope += rows
        return np.asarray(np.einsum("nd,nd->n", slope, point))

    def _stretched(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """About the price at which the best change is as long as the radius."""
        radius, least = np.float32(self.radius), np.float32(TINY)
        point = np.maximum(rows, np.float32(0)) * self._falls
        point += np.minimum(rows, np.float32(0)) * self._rises
        weight = np.maximum(np.sqrt(np.einsum("nd,nd->n", point, point)) / radius, least)
        for _ in range(_SCALINGS - 1):
            np.divide(rows, -weight[:, None], out=point)
            np.clip(point, self._low, self._high, out=point)
            weight = weight * np.sqrt(np.einsum("nd,nd->n", point, point)) / radius
            weight = np.maximum(weight, least)
        return np.where(np.isfinite(weight), weight, np.float32(1))

    def _price(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """About the slope at which the steepest changes fill the radius, were each one long."""
        size = np.maximum(rows, np.float32(0)) * self._falls
        size -= np.minimum(rows, np.float32(0)) * self._rises
        place = size.shape[1] - self._steepest
        return np.asarray(np.partition(size, place, axis=1)[:, place])


def _outward(room: Float[np.ndarray, "D"]) -> NDArray[np.float32]:
    """Rounded up, and never subnormal; none stays none."""
    wide = np.maximum(np.nextafter(room.astype(np.float32), np.float32(np.inf)), TINY)
    return np.where(room > 0, wide, 0.0).astype(np.float32)
