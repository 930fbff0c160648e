"""Lazy walls: a cell has hundreds of walls and few of them matter.

A program starts with the nearest ones; what its optimum violates is added until nothing is. Their
rows are divided by their lengths, so that the solver sees the scale of no layer, and units that no
input moves are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from closegap.attacks.activation.cells import Cell
from closegap.attacks.activation.programs.base import CellAnswer
from closegap.core.budget import Budget
from closegap.core.numerics import CELL_TOLERANCE

__all__ = ["LazyOptimum", "LazyWalls", "WallProgram", "nearest_walls"]

#: Walls a program starts with, and most that are added at a time.
FIRST_WALLS = 50
MORE_WALLS = 100
#: Rounds of adding after which all that is left is added at once.
PATIENT_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class LazyOptimum:
    """An optimum of the program as far as it is written.

    Attributes:
        value: of the objective.
        point: flat input.
        wall_duals: of the walls added, in that order, never negative.
        row_duals: of the goal's rows.
    """

    value: float
    point: Float[np.ndarray, "D"]
    wall_duals: Float[np.ndarray, "W"]
    row_duals: Float[np.ndarray, "Q"]


@runtime_checkable
class WallProgram(Protocol):
    """A program in the input that takes walls one batch after the other."""

    def add_walls(self, rows: Float[np.ndarray, "W D"], least: Float[np.ndarray, "W"]) -> None:
        """Ask for `rows @ x >= least` too; every row has length 1."""

    def optimum(self, budget: Budget) -> LazyOptimum | None:
        """The optimum under the walls added so far; `None` where there is none."""


def nearest_walls(
    cell: Cell, point: Float[np.ndarray, "D"], count: int = FIRST_WALLS
) -> Int[np.ndarray, "W"]:
    """The walls nearest to a point, in the l-infinity norm."""
    (moving,) = np.nonzero(~cell.idle)
    size = np.abs(cell.rows[moving]).sum(axis=1)
    distance = np.abs(cell.depths(point)[moving]) / size
    return np.asarray(moving[np.argsort(distance, kind="stable")[:count]])


class LazyWalls:
    """A program and the walls of a cell that it holds so far.

    Args:
        cell: whose walls.
        program: gets them.
        first: walls to begin with.
    """

    def __init__(self, cell: Cell, program: WallProgram, first: Int[np.ndarray, "W"]) -> None:
        self._cell = cell
        self._program = program
        self._scale = np.where(cell.idle, 1.0, cell.scales)
        self._waiting = ~cell.idle
        self._order = np.zeros(0, dtype=np.int64)
        first = np.unique(first)
        self._add(first[self._waiting[first]])

    def optimum(self, budget: Budget) -> CellAnswer | None:
        """The optimum over the cell: walls are added until none is violated.

        Returns:
            `None` where the program has no point, or the time ran out.
        """
        if self._cell.is_empty:
            return None
        for round_ in range(len(self._waiting) + 1):
            found = self._program.optimum(budget)
            if found is None:
                return None
            violation = np.where(self._waiting, -self._cell.depths(found.point) / self._scale, 0.0)
            worst = np.argsort(-violation, kind="stable")
            worst = worst[violation[worst] > CELL_TOLERANCE]
            if not len(worst):
                duals = np.zeros(len(self._waiting))
                duals[self._order] = found.wall_duals / self._cell.lengths[self._order]
                return CellAnswer(found.value, found.point, duals, found.row_duals)
            self._add(worst if round_ >= PATIENT_ROUNDS else worst[:MORE_WALLS])
        return None

    def _add(self, walls: Int[np.ndarray, "W"]) -> None:
        per_length = self._cell.sign[walls] / self._cell.lengths[walls]
        self._order = np.concatenate([self._order, walls])
        self._waiting[walls] = False
        self._program.add_walls(
            per_length[:, None] * self._cell.rows[walls], -per_length * self._cell.constants[walls]
        )
