"""Cells within an l1 ball: what is added and what is taken away are columns of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, vstack

from closegap.attacks.activation.cells import Cell
from closegap.attacks.activation.programs.base import CellAnswer, Goal, Ground
from closegap.attacks.activation.programs.lazy import LazyWalls
from closegap.attacks.activation.programs.linear import (
    LinearWallProgram,
    Substitution,
    distance_model,
    margin_model,
)
from closegap.core.budget import Budget

__all__ = ["L1Program"]


class L1Program:
    """See `CellProgram`.

    Args:
        ground: the box, and the center.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._substitution = Substitution(ground.center, (1.0, -1.0))
        room = ground.upper - ground.center, ground.center - ground.lower
        self._upper = np.maximum(np.concatenate(room), 0.0)
        away = ground.lower - ground.center, ground.center - ground.upper
        self._lower = np.maximum(np.concatenate(away), 0.0)

    def distance(self, point: Float[np.ndarray, "D"]) -> float:
        """See `CellProgram`."""
        return float(np.abs(point - self.ground.center).sum())

    def least_margin(
        self, cell: Cell, goal: Goal, radius: float, near: Int[np.ndarray, "W"], budget: Budget
    ) -> CellAnswer | None:
        """See `CellProgram`."""
        unit = goal.steepness(cell) or 1.0
        rows, constants = (part / unit for part in goal.on(cell))
        model = margin_model(self._substitution, rows, constants, self._lower, self._upper)
        spent = np.zeros((1, model.columns))
        spent[0, : len(self._lower)] = 1.0
        model = replace(
            model,
            matrix=csr_array(vstack([model.matrix, csr_array(spent)], format="csr")),
            row_lower=np.append(model.row_lower, -np.inf),
            row_upper=np.append(model.row_upper, radius),
        )
        several = len(rows) if len(rows) > 1 else 0
        program = LinearWallProgram(model, self._substitution, several, value_unit=unit)
        return LazyWalls(cell, program, near).optimum(budget)

    def least_distance(
        self, cell: Cell, goal: Goal, margin: float, near: Int[np.ndarray, "W"], budget: Budget
    ) -> CellAnswer | None:
        """See `CellProgram`."""
        unit = goal.steepness(cell) or 1.0
        rows, constants = (part / unit for part in goal.on(cell))
        model = distance_model(
            self._substitution, rows, constants, self._lower, self._upper, margin / unit
        )
        program = LinearWallProgram(model, self._substitution, len(rows), row_unit=unit)
        return LazyWalls(cell, program, near).optimum(budget)
