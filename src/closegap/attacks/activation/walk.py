"""The dual-guided walk: from cell to cell through the walls that hold the margin up.

At a cell's optimum the walls with positive multipliers are what blocks progress. Behind a wall the
network has another affine map; what crossing gains, to first order, is the wall's multiplier less
what the unit itself adds there. The optimum lies in the closed cell behind every wall it lies on,
so a crossing never loses, and the walk goes on while it gains. Source: the multipliers are those
of Croce and Hein's region programs (2018); reading them as prices of walls is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from closegap.attacks.activation.cells import Cell, cell_key, flipped
from closegap.attacks.activation.programs import CellAnswer, Optimum
from closegap.attacks.activation.programs.lazy import nearest_walls
from closegap.attacks.activation.region import RegionProblem
from closegap.core.budget import Budget
from closegap.core.numerics import CELL_TOLERANCE, WALK_DECREASE

__all__ = ["Place", "Walk", "crossings", "visit"]


@dataclass(frozen=True, eq=False)
class Place:
    """A cell, and its optimum."""

    cell: Cell
    answer: CellAnswer

    @property
    def walls(self) -> Int[np.ndarray, "W"]:
        """Walls the next cell's program begins with: those at the optimum, and the nearest."""
        return np.union1d(
            np.flatnonzero(self.answer.wall_duals > 0), nearest_walls(self.cell, self.answer.point)
        )


def visit(
    problem: RegionProblem,
    clause: int,
    point: Float[np.ndarray, "D"],
    radius: float,
    budget: Budget,
) -> Place | None:
    """The optimum of the cell that a flat point lies in; `None` where the program gives none."""
    cell = problem.units.cell(problem.units.phase(point))
    near = nearest_walls(cell, point)
    answer = problem.program.least_margin(cell, problem.goals[clause], radius, near, budget)
    return None if answer is None else Place(cell, answer)


def crossings(problem: RegionProblem, clause: int, place: Place) -> Float[np.ndarray, "U"]:
    """What crossing each wall gains, to first order and per unit of pre-activation.

    -infinity away from the optimum's walls. Exact where the optimum lies on independent walls.
    """
    cell, answer = place.cell, place.answer
    goal = problem.goals[clause]
    weights = goal.rows.T @ answer.row_duals
    behind = problem.units.sensitivity(cell, weights, -answer.wall_duals * cell.sign)
    slopes = problem.units.slopes(np.zeros_like(cell.phase))
    gain = answer.wall_duals - (1.0 - slopes) * behind
    at = ~cell.idle & (cell.depths(answer.point) <= CELL_TOLERANCE * cell.scales * 10)
    return np.where(at, gain, -np.inf)


@dataclass(frozen=True)
class Walk:
    """How a walk goes on from a cell.

    Attributes:
        single: so many walls are tried alone, after all that gain at once.
    """

    single: int = 10

    def run(
        self,
        problem: RegionProblem,
        clause: int,
        start: Place,
        optimum: Optimum,
        budget: Budget,
        on_place: Callable[[Place], bool],
    ) -> Place:
        """Go from cell to cell until none of the crossings tried gains.

        Args:
            problem: the query.
            clause: whose margin counts.
            start: where.
            optimum: of a cell; what falls is its value, the margin or the distance.
            budget: its deadline.
            on_place: told of every cell's optimum; True ends the walk.

        Returns:
            the last place.
        """
        place, tried = start, {cell_key(start.cell.phase)}
        while not (on_place(place) or budget.expired):
            better = self._step(problem, clause, place, optimum, budget, tried)
            if better is None:
                break
            place = better
        return place

    def _step(
        self,
        problem: RegionProblem,
        clause: int,
        place: Place,
        optimum: Optimum,
        budget: Budget,
        tried: set[bytes],
    ) -> Place | None:
        gains = crossings(problem, clause, place)
        scale = problem.goals[clause].steepness(place.cell) + abs(place.answer.value)
        least = place.answer.value - WALK_DECREASE * scale
        for units in self._proposals(place, gains):
            phase = flipped(place.cell.phase, units)
            key = cell_key(phase)
            if key in tried or budget.expired:
                continue
            tried.add(key)
            cell = problem.units.cell(phase, place.cell)
            answer = optimum(cell, place.walls)
            if answer is not None and answer.value < least:
                return Place(cell, answer)
        return None

    def _proposals(
        self, place: Place, gains: Float[np.ndarray, "U"]
    ) -> Iterator[Int[np.ndarray, "F"]]:
        """Sets of walls to cross: all that gain, the better half of them, the best ones alone."""
        order = np.argsort(-gains, kind="stable")
        gaining = order[gains[order] > 0]
        if len(gaining) > 1:
            yield gaining
            yield gaining[: (len(gaining) + 1) // 2]
        blocking = order[np.isfinite(gains[order]) & (place.answer.wall_duals[order] > 0)]
        for unit in blocking[: self.single]:
            yield np.array([unit])
