"""What a program over one cell is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from closegap.attacks.activation.cells import Cell
from closegap.core.budget import Budget
from closegap.core.numerics import TINY

__all__ = ["CellAnswer", "CellProgram", "DistanceProgram", "Goal", "Ground", "Optimum"]


@dataclass(frozen=True, eq=False)
class Ground:
    """Where inputs may lie, flat: a box, and the point that distances are measured from."""

    lower: Float[np.ndarray, "D"]
    upper: Float[np.ndarray, "D"]
    center: Float[np.ndarray, "D"]


@dataclass(frozen=True, eq=False)
class Goal:
    """One clause: its margin is the greatest of its rows' values at the outputs."""

    rows: Float[np.ndarray, "Q C"]
    offsets: Float[np.ndarray, "Q"]

    def margin(self, outputs: Float[np.ndarray, "C"]) -> float:
        """The clause's margin at these outputs."""
        return float((self.rows @ outputs + self.offsets).max())

    def steepness(self, cell: Cell) -> float:
        """Length of the longest row as a function of the input, in a cell: the margin's scale.

        0 where no row moves.
        """
        longest = float(np.linalg.norm(self.rows @ cell.output_rows, axis=1).max())
        return longest if longest > TINY else 0.0

    def on(self, cell: Cell) -> tuple[Float[np.ndarray, "Q D"], Float[np.ndarray, "Q"]]:
        """The rows' values as affine functions of the input, in a cell."""
        return self.rows @ cell.output_rows, self.rows @ cell.output_constants + self.offsets


@dataclass(frozen=True, eq=False)
class CellAnswer:
    """The optimum over one closed cell, in the solver's belief.

    Attributes:
        value: the least margin, or the least distance.
        point: where it is attained; on the cell's walls, up to the solver's tolerance.
        wall_duals: how fast `value` would fall if a wall gave way; 0 where a wall does not matter.
        row_duals: the goal's rows' multipliers, likewise.
    """

    value: float
    point: Float[np.ndarray, "D"]
    wall_duals: Float[np.ndarray, "U"]
    row_duals: Float[np.ndarray, "Q"]


#: The optimum over a cell, from the walls to begin with; `None` where there is none.
Optimum: TypeAlias = Callable[[Cell, Int[np.ndarray, "W"]], CellAnswer | None]


@runtime_checkable
class DistanceProgram(Protocol):
    """A distance, and its least in a cell."""

    def least_distance(
        self,
        cell: Cell,
        goal: Goal,
        margin: float,
        near: Int[np.ndarray, "W"],
        budget: Budget,
    ) -> CellAnswer | None:
        """The point of the cell nearest to the center where the goal is at most `margin`.

        Args:
            cell: where.
            goal: what.
            margin: at most.
            near: walls to begin with; others are added as they are violated.
            budget: its deadline.

        Returns:
            `None` where the cell has no such point, or the solver gave none in time.
        """


@runtime_checkable
class CellProgram(DistanceProgram, Protocol):
    """A norm, and how to optimise under it within a cell."""

    def distance(self, point: Float[np.ndarray, "D"]) -> float:
        """From the ground's center, in float64."""

    def least_margin(
        self,
        cell: Cell,
        goal: Goal,
        radius: float,
        near: Int[np.ndarray, "W"],
        budget: Budget,
    ) -> CellAnswer | None:
        """The least margin in the cell within `radius` (infinity for the whole ground).

        Args:
            cell: where.
            goal: what.
            radius: of the ball around the center.
            near: walls to begin with; others are added as they are violated.
            budget: its deadline.

        Returns:
            `None` where the cell has no point there, or the solver gave none in time.
        """
