"""What multipliers of the network's equations prove in a node.

A node is a range `low <= z <= high` of every unit; a unit is on where `low >= 0`, off where
`high <= 0`. Any weights `y` of the units' equations turn a function `f = row . [x - image, h] + c`
of the node's inputs into a half-space's,

    f(x)  >=  A . (x - image) + c'

where the units' outputs were minimised over their triangles. With `f` a multiple of the target's
margin, which is at most 0 where the target is attained, `Objective.least` makes a distance of it.
Multipliers come from linear propagation, or from the duals of any program, of whatever solver:
every rounding from there on is counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.ground import Ground
from closegap.core.numerics import gamma
from closegap.specs.objectives import L1TvDistance, Objective
from closegap.specs.objectives.separable import HalfBox
from closegap.specs.objectives.variation import Variation

__all__ = ["Functions", "Joint", "Planes", "Proof", "Ranges"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranges:
    """Of every unit's pre-activation in a node: `low`, `high`, `[U]`; of B nodes, `[B, U]`."""

    low: Float[np.ndarray, "*B U"]
    high: Float[np.ndarray, "*B U"]

    @property
    def free(self) -> NDArray[np.bool_]:
        """Units whose phase is open."""
        return np.asarray((self.low < 0) & (self.high > 0))

    @property
    def empty(self) -> bool:
        """Whether no input has such units."""
        return bool((self.low > self.high).any())

    def split(self, unit: int, sign: int) -> Ranges:
        """One child."""
        low, high = self.low.copy(), self.high.copy()
        if sign > 0:
            low[unit] = max(low[unit], 0.0)
        else:
            high[unit] = min(high[unit], 0.0)
        return Ranges(low, high)

    def select(self, which: int | NDArray[np.int64]) -> Ranges:
        """Of some nodes, or of one."""
        return Ranges(self.low[which], self.high[which])

    def within(self, other: Ranges) -> Ranges:
        """The intersection."""
        return Ranges(np.maximum(self.low, other.low), np.minimum(self.high, other.high))


@dataclass(frozen=True, eq=False)
class Functions:
    """`rows . [x - image, h] + offsets`, each known to be off by at most `slack`.

    Attributes:
        rows: `[B, D + U]`.
        offsets, slack: `[B]`.
    """

    rows: Float[np.ndarray, "B C"]
    offsets: Float[np.ndarray, "B"]
    slack: Float[np.ndarray, "B"]

    def times(self, factor: Float[np.ndarray, "B"]) -> Functions:
        """Multiples; negative ones too."""
        return Functions(
            factor[:, None] * self.rows, factor * self.offsets, np.abs(factor) * self.slack
        )


@dataclass(frozen=True, eq=False)
class Joint:
    """Functions `constant - inner . z - outer . h` of units that are at most `lost` in a node.

    Attributes:
        inner, outer: `[B, U]`.
        constant: `[B]`.
        lost: what rounding takes of planes that have such a function added, too, `[B]`.
    """

    inner: Float[np.ndarray, "B U"]
    outer: Float[np.ndarray, "B U"]
    constant: Float[np.ndarray, "B"]
    lost: Float[np.ndarray, "B"]


@dataclass(frozen=True, eq=False)
class Proof:
    """Planes below functions, and what each unit gives away in them.

    Attributes:
        slopes, constants: `f(x) >= slopes @ (x - image) + constants`.
        either: what a unit adds to the constant at worst if its phase is open, `[B, U]`.
        on, off: the same with its phase fixed.
    """

    slopes: Float[np.ndarray, "B D"]
    constants: Float[np.ndarray, "B"]
    either: Float[np.ndarray, "B U"]
    on: Float[np.ndarray, "B U"]
    off: Float[np.ndarray, "B U"]

    def select(self, which: NDArray[np.int64]) -> Proof:
        """Some of the planes."""
        return Proof(
            self.slopes[which],
            self.constants[which],
            self.either[which],
            self.on[which],
            self.off[which],
        )


class Planes:
    """One ground's planes.

    Args:
        ground: the network.
        objective: the distance.
    """

    def __init__(self, ground: Ground, objective: Objective) -> None:
        self.ground = ground
        self._objective = objective
        self.variation: Variation | None = None
        if isinstance(objective, L1TvDistance):
            self.variation = objective.variation_around(ground.image)
        count = ground.inputs
        self._read = np.abs(ground.weight) @ ground.reach + np.abs(ground.bias)
        self._read += 4 * ground.reach[count:]
        self._inner = ground.weight[:, count:]
        self._steps = 8 * gamma(2 * ground.units + 32)

    def margin(self, row: int | NDArray[np.int64]) -> Functions:
        """A target's margin, or those of many."""
        ground, at = self.ground, np.atleast_1d(row)
        return Functions(ground.rows[at], ground.offsets[at], ground.row_slack[at])

    def distance(
        self,
        slopes: Float[np.ndarray, "B D"],
        constants: Float[np.ndarray, "B"],
        flows: Float[np.ndarray, "B E"] | None = None,
    ) -> Array:
        """Lower bounds of the distance where planes are at most 0, `[B]`; by flows, if given."""
        ground = self.ground
        if flows is not None and self.variation is not None:
            assert isinstance(self._objective, L1TvDistance)
            half = HalfBox.of(ground.image, -slopes, -constants, ground.lower, ground.upper)
            found = self._objective.least_along(half, self.variation, flows)
            return np.where(np.isnan(found), -np.inf, found)
        found = self._objective.least(ground.image, -slopes, -constants, ground.lower, ground.upper)
        return np.where(np.isnan(found), -np.inf, found)

    def proof(
        self,
        functions: Functions,
        y: Float[np.ndarray, "B U"],
        ranges: Ranges,
        joint: Joint | None = None,
    ) -> Proof:
        """Planes below functions from multipliers.

        Args:
            functions: what to bound.
            y: multipliers of the units' equations.
            ranges: the node.
            joint: what rows over groups of units add.
        """
        ground, count = self.ground, self.ground.inputs
        y = np.where(np.isfinite(y), y, 0.0)
        total = functions.rows + y @ ground.weight
        through, pulled = total[:, count:], y
        if joint is not None:
            through, pulled = through - joint.outer, y + joint.inner
        either, on, off, worst = self.given(through, pulled, ranges)
        size = np.abs(functions.rows) @ ground.reach + np.abs(functions.offsets)
        size += np.abs(y) @ self._read
        lost = functions.slack + np.abs(y) @ ground.slack
        constant = functions.offsets + y @ ground.bias + worst.sum(axis=1)
        constant = constant - 2 * lost - self._steps * size
        if joint is not None:
            constant = constant + joint.constant - joint.lost
        return Proof(total[:, :count], constant, either, on, off)

    def given(
        self, through: Float[np.ndarray, "B U"], y: Float[np.ndarray, "B U"], ranges: Ranges
    ) -> tuple[Array, Array, Array, Array]:
        """What units add to planes at worst: with open phases, on, off, and as they are.

        Args:
            through: coefficients of the units' outputs; perhaps of the first units alone.
            y: multipliers of their equations.
            ranges: of the same units.
        """
        up, down = through - y, y - self.ground.slope[: y.shape[1]] * through
        low, high = ranges.low, ranges.high
        rise, fall = np.maximum(low, 0.0), np.maximum(-high, 0.0)
        on = np.minimum(up * rise, up * np.maximum(high, 0.0))
        off = np.minimum(down * fall, down * np.maximum(-low, 0.0))
        either = np.minimum(on, off)
        return either, on, off, np.where(low >= 0, on, np.where(high <= 0, off, either))

    def lost(self, units: Int[np.ndarray, "B"], y: Float[np.ndarray, "B V"]) -> Array:
        """What rounding takes of the constants of units' planes.

        Args:
            units: whose planes.
            y: magnitudes of the multipliers, of the first units.
        """
        count = y.shape[1]
        lost = self.ground.slack[units] + y @ self.ground.slack[:count]
        return np.asarray(2 * lost + self._steps * (self._read[units] + y @ self._read[:count]))

    def propagated(
        self, functions: Functions, ranges: Ranges, layers: int | None = None
    ) -> Float[np.ndarray, "B U"]:
        """Multipliers by linear propagation: the chord above, the nearer of two lines below.

        Args:
            functions: what to bound.
            ranges: the node.
            layers: how many of the first layers the functions read; `None` for all.
        """
        return self.carried(functions.rows[:, self.ground.inputs :], ranges, layers)

    def carried(
        self, coefficients: Float[np.ndarray, "B U"], ranges: Ranges, layers: int | None = None
    ) -> Float[np.ndarray, "B U"]:
        """As `propagated`, of coefficients of the units' outputs; perhaps of the first ones."""
        ground, through = self.ground, coefficients.copy()
        y = np.zeros_like(through)
        for layer in reversed(ground.layers[:layers]):
            low, high = ranges.low[..., layer], ranges.high[..., layer]
            slope = ground.slope[layer]
            fixed = np.where(low >= 0, 1.0, slope)
            free = (low < 0) & (high > 0)
            width = np.where(free, high - low, 1.0)
            chord = np.where(free, (high - slope * low) / width, fixed)
            line = np.where(free, np.where(high > -low, 1.0, slope), fixed)
            coefficient = through[:, layer]
            y[:, layer] = coefficient * np.where(coefficient < 0, chord, line)
            through[:, : layer.start] += y[:, layer] @ self._inner[layer, : layer.start]
        return y
