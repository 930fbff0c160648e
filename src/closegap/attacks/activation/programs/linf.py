"""Cells within an l-infinity ball: a radius is bounds of columns, so it moves in a warm session.

The least distance is the root of the least margin as a function of the radius. That function is
convex and piecewise linear, and the columns' reduced costs are its slope: Newton's method ends
after a few programs, each a change of bounds from the last.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from closegap.attacks.activation.cells import Cell
from closegap.attacks.activation.programs.base import CellAnswer, Goal, Ground
from closegap.attacks.activation.programs.lazy import LazyWalls
from closegap.attacks.activation.programs.linear import (
    LinearWallProgram,
    Substitution,
    margin_model,
)
from closegap.attacks.activation.programs.written import WrittenProgram
from closegap.core.budget import Budget
from closegap.core.numerics import CELL_TOLERANCE
from closegap.specs.objectives import LinfDistance

__all__ = ["LinfProgram"]

#: Newton steps and bisections together.
_STEPS = 20


class LinfProgram:
    """See `CellProgram`.

    Args:
        ground: the box, and the center.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def distance(self, point: Float[np.ndarray, "D"]) -> float:
        """See `CellProgram`."""
        return float(np.abs(point - self.ground.center).max(initial=0.0))

    def least_margin(
        self, cell: Cell, goal: Goal, radius: float, near: Int[np.ndarray, "W"], budget: Budget
    ) -> CellAnswer | None:
        """See `CellProgram`."""
        return _Session(self.ground, cell, goal, near).least_margin(radius, budget)

    def least_distance(
        self, cell: Cell, goal: Goal, margin: float, near: Int[np.ndarray, "W"], budget: Budget
    ) -> CellAnswer | None:
        """See `CellProgram`."""
        session = _Session(self.ground, cell, goal, near)
        ground = self.ground
        high = max(self.distance(ground.upper), self.distance(ground.lower))
        best = session.least_margin(high, budget)
        if best is None or best.value > margin:
            return None
        slack = CELL_TOLERANCE * session.unit
        low = self.distance(np.clip(ground.center, ground.lower, ground.upper))
        first = session.least_margin(low, budget) if low > 0 else None
        if first is not None and first.value - margin <= slack:
            return replace(first, value=low)  # the ground's own end is nearest
        radius = self.distance(best.point)
        for _ in range(_STEPS):
            answer = session.least_margin(radius, budget)
            over = math.inf if answer is None else answer.value - margin
            if answer is not None and over <= slack:
                high, best = radius, answer
            else:
                low = radius
            if high - low <= CELL_TOLERANCE or abs(over) <= slack:
                break
            radius = _next(radius, over, session.slope(radius), (low, high))
        if best.value < margin - slack:  # walls alone end the way: the margin has no multipliers
            whole = WrittenProgram(LinfDistance(), ground)
            return whole.least_distance(cell, goal, margin, near, budget)
        return replace(best, value=high)


def _next(radius: float, over: float, slope: float, between: tuple[float, float]) -> float:
    """Newton's radius where it lies inside the bracket, else its middle."""
    low, high = between
    if math.isfinite(over) and slope > 0 and low < radius + over / slope < high:
        return radius + over / slope
    return (low + high) / 2


@dataclass(eq=False)
class _Session:
    """One cell's margin program while the radius moves; `unit` is the margin's."""

    ground: Ground
    cell: Cell
    goal: Goal
    near: Int[np.ndarray, "W"]

    def __post_init__(self) -> None:
        self.unit = self.goal.steepness(self.cell) or 1.0
        rows, constants = (part / self.unit for part in self.goal.on(self.cell))
        substitution = Substitution(np.zeros(len(self.ground.center)))
        model = margin_model(
            substitution, rows, constants, self.ground.lower.copy(), self.ground.upper.copy()
        )
        several = len(rows) if len(rows) > 1 else 0
        self._program = LinearWallProgram(model, substitution, several, value_unit=self.unit)
        self._walls = LazyWalls(self.cell, self._program, self.near)

    def least_margin(self, radius: float, budget: Budget) -> CellAnswer | None:
        """The least margin within a radius, from the last basis."""
        ground = self.ground
        lower = np.maximum(ground.lower, np.minimum(ground.center - radius, ground.upper))
        upper = np.minimum(ground.upper, np.maximum(ground.center + radius, ground.lower))
        columns = np.arange(len(lower))
        self._program.session.set_column_bounds(columns, lower, upper)
        return self._walls.optimum(budget)

    def slope(self, radius: float) -> float:
        """How fast the least margin falls as the radius grows, at the last optimum."""
        claim = self._program.claim
        if claim is None or claim.reduced_costs is None:
            return 0.0
        ground = self.ground
        reduced = claim.reduced_costs[: len(ground.center)]
        below = ground.center - radius > ground.lower
        above = ground.center + radius < ground.upper
        moved = np.where(reduced > 0, below, above)
        return self.unit * float(np.abs(reduced)[moved].sum())
