"""Linear programs over a cell: the least of a goal's rows, with walls added to a warm session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from closegap.attacks.activation.programs.lazy import LazyOptimum
from closegap.core.budget import Budget
from closegap.mip.model import Claim, Model, SolveOptions, Status
from closegap.mip.registry import choose

__all__ = ["LinearWallProgram", "Substitution", "distance_model", "margin_model"]


@dataclass(frozen=True, eq=False)
class Substitution:
    """How the input is written in columns: `shift + sum_k signs[k] * block_k`.

    Attributes:
        shift: flat input.
        signs: of each block of D columns: one block for the input itself, two for what is added
            and what is taken away.
    """

    shift: Float[np.ndarray, "D"]
    signs: tuple[float, ...] = (1.0,)

    @property
    def columns(self) -> int:
        """How many columns the input takes."""
        return len(self.shift) * len(self.signs)

    def rows(self, rows: Float[np.ndarray, "R D"], more: int = 0) -> csr_array:
        """Rows in the columns, with `more` empty columns behind."""
        blocks = [sign * rows for sign in self.signs]
        return csr_array(np.hstack([*blocks, np.zeros((len(rows), more))]))

    def point(self, columns: Float[np.ndarray, "V"]) -> Float[np.ndarray, "D"]:
        """The input that the columns stand for."""
        blocks = columns[: self.columns].reshape(len(self.signs), -1)
        return np.asarray(self.shift + np.asarray(self.signs) @ blocks)


def margin_model(
    substitution: Substitution,
    rows: Float[np.ndarray, "Q D"],
    constants: Float[np.ndarray, "Q"],
    lower: Float[np.ndarray, "V"],
    upper: Float[np.ndarray, "V"],
) -> Model:
    """Minimise the greatest of the rows' values; one column more where there are several rows."""
    offsets = constants + rows @ substitution.shift
    if len(rows) == 1:
        cost = substitution.rows(rows).toarray()[0]
        return Model(
            cost=cost,
            matrix=csr_array((0, len(cost))),
            row_lower=np.zeros(0),
            row_upper=np.zeros(0),
            lower=lower,
            upper=upper,
            integer=np.zeros(len(cost), dtype=np.bool_),
            constant=float(offsets[0]),
        )
    matrix = substitution.rows(-rows, more=1).tolil()
    matrix[:, -1] = 1.0
    cost = np.append(np.zeros(len(lower)), 1.0)
    return Model(
        cost=cost,
        matrix=csr_array(matrix),
        row_lower=offsets,
        row_upper=np.full(len(rows), np.inf),
        lower=np.append(lower, -np.inf),
        upper=np.append(upper, np.inf),
        integer=np.zeros(len(cost), dtype=np.bool_),
    )


def distance_model(
    substitution: Substitution,
    rows: Float[np.ndarray, "Q D"],
    constants: Float[np.ndarray, "Q"],
    lower: Float[np.ndarray, "V"],
    upper: Float[np.ndarray, "V"],
    margin: float,
) -> Model:
    """Minimise the columns' sum where every row's value is at most `margin`."""
    return Model(
        cost=np.ones(len(lower)),
        matrix=substitution.rows(-rows),
        row_lower=constants + rows @ substitution.shift - margin,
        row_upper=np.full(len(rows), np.inf),
        lower=lower,
        upper=upper,
        integer=np.zeros(len(lower), dtype=np.bool_),
    )


class LinearWallProgram:
    """A linear program held by a solver; see `WallProgram`.

    Args:
        model: the goal's rows first, then what else there is before any wall.
        substitution: how its columns write the input.
        goal_rows: how many rows of the model are the goal's; 0 where its one row is the cost.
        value_unit: what a value of 1 in the model stands for.
        row_unit: by what the goal's rows were divided, where they are limits.
    """

    def __init__(
        self,
        model: Model,
        substitution: Substitution,
        goal_rows: int,
        *,
        value_unit: float = 1.0,
        row_unit: float = 1.0,
    ) -> None:
        self.session = choose("lp")[0].session(model)
        self.claim: Claim | None = None
        self._substitution = substitution
        self._more = model.columns - substitution.columns
        self._goal_rows = goal_rows
        self._before = model.rows
        self._value_unit, self._row_unit = value_unit, row_unit

    def add_walls(self, rows: Float[np.ndarray, "W D"], least: Float[np.ndarray, "W"]) -> None:
        """See `WallProgram`."""
        matrix = self._substitution.rows(rows, self._more)
        lower = least - rows @ self._substitution.shift
        self.session.add_rows(matrix, lower, np.full(len(lower), np.inf))

    def optimum(self, budget: Budget) -> LazyOptimum | None:
        """See `WallProgram`."""
        self.claim = self.session.solve(SolveOptions(time_limit=budget.remaining))
        claim = self.claim
        if claim.status is not Status.OPTIMAL or claim.point is None or claim.row_duals is None:
            return None
        point = self._substitution.point(claim.point)
        duals = np.maximum(claim.row_duals, 0.0)
        goal = duals[: self._goal_rows] / self._row_unit if self._goal_rows else np.ones(1)
        walls = self._value_unit * duals[self._before :]
        return LazyOptimum(self._value_unit * claim.objective, point, walls, goal)
