"""Cells within an l2 ball: quadratic programs.

The least distance is one of them. The least margin within a radius is the least of
`distance^2 / 2 + price * margin` at the price for which the distance is the radius: the distance
grows with the price, which is found by bisection. The goal's rows are divided by the length of the
longest.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from closegap.attacks.activation.cells import Cell
from closegap.attacks.activation.programs.base import CellAnswer, Goal, Ground
from closegap.attacks.activation.programs.lazy import LazyOptimum, LazyWalls
from closegap.core.budget import Budget
from closegap.mip.model import Status
from closegap.mip.piqp import solve_quadratic
from closegap.mip.quadratic import QuadraticModel

__all__ = ["L2Program"]

#: The radius is met to this share from below, in at most so many programs.
_NEAR_ENOUGH = 0.99
_STEPS = 12


class L2Program:
    """See `CellProgram`.

    Args:
        ground: the box, and the center.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def distance(self, point: Float[np.ndarray, "D"]) -> float:
        """See `CellProgram`."""
        return math.sqrt(math.fsum((point - self.ground.center) ** 2))

    def least_margin(
        self, cell: Cell, goal: Goal, radius: float, near: Int[np.ndarray, "W"], budget: Budget
    ) -> CellAnswer | None:
        """See `CellProgram`; the radius is met from below, to one part in a hundred."""
        program = _Quadratic(self.ground, cell, goal)
        walls = LazyWalls(cell, program, near)
        low, high, best = 0.0, math.inf, None
        price = radius
        for _ in range(_STEPS if program.steepest else 1):
            program.price = price
            found = walls.optimum(budget)
            if found is None:
                return best
            reach = self.distance(found.point)
            if reach > radius:
                high = price
            else:
                low, best = price, program.priced(found)
            if _NEAR_ENOUGH * radius <= reach <= radius:
                break
            price = math.sqrt(max(low, high / 1e3) * high) if math.isfinite(high) else 4 * price
        return best

    def least_distance(
        self, cell: Cell, goal: Goal, margin: float, near: Int[np.ndarray, "W"], budget: Budget
    ) -> CellAnswer | None:
        """See `CellProgram`."""
        program = _Quadratic(self.ground, cell, goal)
        program.margin = margin
        found = LazyWalls(cell, program, near).optimum(budget)
        if found is None:
            return None
        reach = self.distance(found.point)
        return CellAnswer(reach, found.point, found.wall_duals, found.row_duals)


class _Quadratic:
    """Columns: the offset from the center, and the margin where it has a price.

    Args:
        ground: the box, and the center.
        cell: where.
        goal: whose margin.

    Attributes:
        steepest: length of the goal's longest row, the margin's unit here; 0 where none has any.
        price: of the margin in that unit; 0 where the margin is a limit.
        margin: the limit.
    """

    def __init__(self, ground: Ground, cell: Cell, goal: Goal) -> None:
        self.price = 0.0
        self.margin = 0.0
        self._ground = ground
        self._goal = goal.on(cell)
        rows, constants = self._goal
        self.steepest = goal.steepness(cell)
        self._unit = self.steepest or 1.0
        self._rows = np.hstack([-rows / self._unit, np.ones((len(rows), 1))])
        self._least = (constants + rows @ ground.center) / self._unit
        self._walls = np.zeros((0, self._rows.shape[1]))
        self._wall_least = np.zeros(0)

    def priced(self, found: CellAnswer) -> CellAnswer:
        """The optimum in units of the margin."""
        rows, constants = self._goal
        value = float((rows @ found.point + constants).max())
        share = self._unit / self.price
        return CellAnswer(value, found.point, found.wall_duals * share, found.row_duals * share)

    def add_walls(self, rows: Float[np.ndarray, "W D"], least: Float[np.ndarray, "W"]) -> None:
        """See `WallProgram`."""
        walls = np.hstack([rows, np.zeros((len(rows), 1))])
        self._walls = np.vstack([self._walls, walls])
        self._wall_least = np.concatenate([self._wall_least, least - rows @ self._ground.center])

    def optimum(self, budget: Budget) -> LazyOptimum | None:
        """See `WallProgram`."""
        if budget.expired:
            return None
        ground = self._ground
        free, limit = self.price > 0, self.margin / self._unit
        least = np.concatenate([self._least, self._wall_least])
        claim = solve_quadratic(
            QuadraticModel(
                curvature=np.append(np.ones(len(ground.center)), 0.0),
                cost=np.append(np.zeros(len(ground.center)), self.price),
                matrix=csr_array(np.vstack([self._rows, self._walls])),
                row_lower=least,
                row_upper=np.full(len(least), np.inf),
                lower=np.append(ground.lower - ground.center, -np.inf if free else limit),
                upper=np.append(ground.upper - ground.center, np.inf if free else limit),
            ),
            budget.remaining,
        )
        if claim.status is not Status.OPTIMAL or claim.point is None or claim.row_duals is None:
            return None
        duals = np.maximum(claim.row_duals, 0.0)
        count = len(self._rows)
        point = ground.center + claim.point[:-1]
        return LazyOptimum(claim.objective, point, duals[count:], duals[:count] / self._unit)
