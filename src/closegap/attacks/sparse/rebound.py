"""Tighter ranges of many nodes' units at once: what `sweep` does for one node, in one go.

A split makes a unit linear, and everything behind it tighter. Each unit's plane plus a multiple of
the node's margin, which is at most 0 wherever the target is attained, is minimised over the region
that holds every nearer input. Whatever the multiple is, the bound holds: in a Euclidean ball it is
the best one for the ball without its box, elsewhere the one that served a unit last, or a
neighbour of that. Planes are summed over the inputs in single precision (`Falls`); what that may
lose of them is bounded by how far the units' own weights fall.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.attacks.sparse.falls import Falls
from closegap.attacks.sparse.planes import Planes, Proof, Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.core.numerics import FLOAT32_UNIT, TINY, gamma

__all__ = ["Rebound"]

Array = NDArray[np.float64]
Single = NDArray[np.float32]

#: Entries of planes that are made at a time: they stay in a processor's cache.
_CACHED = 50_000
#: The first multiple of the margin, in units of the ratio of both planes' slopes, and how far apart
#: multiples are that are tried next.
_FIRST, _APART = 0.5, 1.6
#: Of a radius, what is left of it at least beside the margin's plane.
_LEFT = 0.05


class Rebound:
    """Bounds the units of one ground again and again.

    Args:
        planes: of the ground.
        reach: a region that holds every input that counts.
    """

    def __init__(self, planes: Planes, reach: Reach) -> None:
        self._planes = planes
        self._ground = ground = planes.ground
        self._falls = Falls(reach)
        count = ground.inputs
        self._outer = np.ascontiguousarray(ground.weight[:, :count], dtype=np.float32)
        self._inner = ground.weight[:, count:]
        self._each = self._falls.most(ground.weight[:, :count])
        self._kept = np.full((2, ground.units), _FIRST, dtype=np.float32)
        self._up = False

    @np.errstate(over="ignore", invalid="ignore", divide="ignore")  # what is not finite is no bound
    def run(self, ranges: Ranges, margins: Proof) -> Ranges:
        """Ranges at least as tight, that hold wherever the margins' planes may be at most 0.

        Args:
            ranges: of B nodes.
            margins: a plane below each node's margin.
        """
        found = Ranges(ranges.low.copy(), ranges.high.copy())
        step = max(1, _CACHED // (2 * max(self._ground.inputs, 1)))
        self._up = not self._up
        margin = _Margins.of(margins, self._falls)
        for number, layer in enumerate(self._ground.layers):
            nodes, units = np.nonzero(found.free[:, layer])
            units = units + layer.start
            for start in range(0, len(nodes), step):
                node, unit = nodes[start : start + step], units[start : start + step]
                low, high = self._bounded(node, unit, number, found, margin)
                found.low[node, unit] = np.fmax(found.low[node, unit], low)
                found.high[node, unit] = np.fmin(found.high[node, unit], high)
        return found

    def _bounded(
        self,
        node: Int[np.ndarray, "N"],
        unit: Int[np.ndarray, "N"],
        layer: int,
        ranges: Ranges,
        margins: _Margins,
    ) -> tuple[Array, Array]:
        """Bounds of units of one layer, each in its node."""
        count = len(node)
        node, unit = np.concatenate([node, node]), np.concatenate([unit, unit])
        side = np.repeat([0, 1], count)
        rows, constants, lost = self._rows(node, unit, layer, 1.0 - 2.0 * side, ranges)
        slopes, offsets = margins.slopes[node], margins.constants[node]
        best = np.full(len(node), -np.inf)
        for factor in self._factors(rows, slopes, offsets, (side, unit)):
            total = rows + factor[:, None] * slopes
            weight = factor.astype(np.float64)
            value = self._falls.least(total) + constants + weight * offsets
            off = lost + 4 * FLOAT32_UNIT * weight * margins.most[node]
            off += gamma(16) * (np.abs(value) + np.abs(constants) + np.abs(weight * offsets))
            value = np.where(np.isfinite(value), value - off, -np.inf)
            better = value > best
            best = np.where(better, value, best)
            self._remember(factor, better, rows, slopes, (side, unit))
        return best[:count], -best[count:]

    def _rows(
        self,
        node: Int[np.ndarray, "N"],
        unit: Int[np.ndarray, "N"],
        layer: int,
        sign: Array,
        ranges: Ranges,
    ) -> tuple[Single, Array, Array]:
        """Planes below units times signs: slopes, constants, and what the slopes may be off by."""
        planes, ground = self._planes, self._ground
        first = ground.layers[layer].start
        through = sign[:, None] * self._inner[unit, :first]
        here = Ranges(ranges.low[node, :first], ranges.high[node, :first])
        y = planes.carried(through, here, layer).astype(np.float32)
        single = sign.astype(np.float32)[:, None] * self._outer[unit] + y @ self._outer[:first]
        y = y.astype(np.float64)
        through = through + y @ self._inner[:first, :first]
        size = np.abs(y)
        worst = planes.given(through, y, here)[3].sum(axis=1)
        constants = sign * ground.bias[unit] + y @ ground.bias[:first] + worst
        constants -= planes.lost(unit, size)
        terms = first + 8
        lost = gamma(terms, FLOAT32_UNIT) * (self._each[unit] + size @ self._each[:first])
        lost += TINY * (1 + size.sum(axis=1)) * ground.inputs
        return single, constants, 2 * lost

    def _factors(
        self,
        rows: Single,
        slopes: Single,
        offsets: Array,
        place: tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]],
    ) -> list[Single]:
        """Multiples of the margins to try."""
        if self._falls.norm == 2:
            return [_over_ball(rows, slopes, offsets, self._falls.radius)]
        kept = self._kept[place] * _ratio(rows, slopes)
        return [kept, kept * np.float32(_APART if self._up else 1 / _APART)]

    def _remember(
        self,
        factor: Single,
        better: NDArray[np.bool_],
        rows: Single,
        slopes: Single,
        place: tuple[Int[np.ndarray, "N"], Int[np.ndarray, "N"]],
    ) -> None:
        """Multiples that served."""
        if self._falls.norm == 2:
            return
        ratio = _ratio(rows, slopes)
        better = better & (ratio > 0)
        side, unit = place[0][better], place[1][better]
        self._kept[side, unit] = factor[better] / ratio[better]


class _Margins:
    """Planes below margins, in single precision.

    Attributes:
        slopes: `[B, D]`.
        constants: `[B]`.
        most: how far they fall at most, were no slope negative.
    """

    def __init__(self, slopes: Single, constants: Array, most: Array) -> None:
        self.slopes = slopes
        self.constants = constants
        self.most = most

    @classmethod
    def of(cls, margins: Proof, falls: Falls) -> _Margins:
        """From planes."""
        most = falls.most(margins.slopes) + TINY * margins.slopes.shape[1]
        return cls(margins.slopes.astype(np.float32), margins.constants, most)


def _ratio(rows: Single, slopes: Single) -> Single:
    wide = np.maximum(np.einsum("nd,nd->n", slopes, slopes), np.float32(TINY))
    return np.asarray(np.sqrt(np.einsum("nd,nd->n", rows, rows) / wide))


def _over_ball(rows: Single, slopes: Single, offsets: Array, radius: float) -> Single:
    """Of half-spaces `slopes . d + offsets <= 0`, the best for rows over a ball around 0."""
    along = np.einsum("nd,nd->n", rows, slopes).astype(np.float64)
    square = np.maximum(np.einsum("nd,nd->n", slopes, slopes).astype(np.float64), TINY)
    whole = np.einsum("nd,nd->n", rows, rows).astype(np.float64)
    across = np.sqrt(np.maximum(whole - along**2 / square, 0.0))
    height = offsets / np.sqrt(square)
    rest = np.sqrt(np.maximum(radius**2 - height**2, (_LEFT * radius) ** 2))
    found = (height * across / np.maximum(rest, TINY) - along / np.sqrt(square)) / np.sqrt(square)
    return np.where(np.isfinite(found), np.maximum(found, 0.0), 0.0).astype(np.float32)
