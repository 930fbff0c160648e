"""Cells under any distance that a linear program can write: its columns stand beside the input's.

Lengths of isotropic gradients stand under tangents only, so that their value is a little short.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array, vstack

from closegap.attacks.activation.cells import Cell
from closegap.attacks.activation.programs.base import CellAnswer, Goal, Ground
from closegap.attacks.activation.programs.lazy import LazyWalls
from closegap.attacks.activation.programs.linear import LinearWallProgram, Substitution
from closegap.core.budget import Budget
from closegap.encode.distances import distance_over
from closegap.mip.model import Model
from closegap.specs.objectives import Objective
from closegap.specs.region import Box

__all__ = ["WrittenProgram"]


class WrittenProgram:
    """See `DistanceProgram`.

    Args:
        objective: whose values are no whole numbers.
        ground: the box, and the center.
    """

    def __init__(self, objective: Objective, ground: Ground) -> None:
        self._substitution = Substitution(np.zeros_like(ground.center))
        self._model = distance_over(Box(ground.lower, ground.upper), objective, ground.center)

    def least_distance(
        self, cell: Cell, goal: Goal, margin: float, near: Int[np.ndarray, "W"], budget: Budget
    ) -> CellAnswer | None:
        """See `DistanceProgram`."""
        unit = goal.steepness(cell) or 1.0
        rows, constants = (part / unit for part in goal.on(cell))
        model = self._under(rows, constants - margin / unit)
        program = LinearWallProgram(model, self._substitution, len(rows), row_unit=unit)
        return LazyWalls(cell, program, near).optimum(budget)

    def _under(self, rows: Float[np.ndarray, "Q D"], least: Float[np.ndarray, "Q"]) -> Model:
        """The distance where `-rows @ x >= least`."""
        base = self._model
        first = self._substitution.rows(-rows, base.columns - self._substitution.columns)
        return replace(
            base,
            matrix=csr_array(vstack([first, base.matrix], format="csr")),
            row_lower=np.concatenate([least, base.row_lower]),
            row_upper=np.concatenate([np.full(len(rows), np.inf), base.row_upper]),
        )
