"""One target's node program in a solver, re-solved as ranges narrow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.program import NodeProgram
from closegap.core.budget import Budget
from closegap.core.numerics import CUT_VIOLATION
from closegap.encode.expression import widen
from closegap.mip.certify import certified_lower_bound, certifies_infeasibility
from closegap.mip.model import Claim, SolveOptions, Status
from closegap.mip.registry import choose

__all__ = ["LinearNodes", "NodeRelaxation", "Solved", "placed"]

Array = NDArray[np.float64]

#: Rounds of tangents in one node.
_ROUNDS = 6


@dataclass(frozen=True, eq=False)
class Solved:
    """What a solver left of one node. Only `lower` is proved.

    Attributes:
        lower: of the distance; infinity where the node is proved to be empty.
        difference: from the image, at the optimum `[D]`, or `None`.
        above, below: the units' columns there `[U]`.
        price: of the margin's row, not negative.
        multipliers: of the units' equations, as in `planes.Multipliers`, `[U]`.
        chords: how much each triangle's upper side is worth, `[U]`, not negative.
        flows: of total variation's terms, as in `Variation`, `[E]`.
        joint: multipliers of the rows over groups of units, `[R]`, not negative.
        answered: whether the solver gave multipliers at all.
    """

    lower: float = -math.inf
    difference: Float[np.ndarray, "D"] | None = None
    above: Float[np.ndarray, "U"] | None = None
    below: Float[np.ndarray, "U"] | None = None
    price: float = 0.0
    multipliers: Float[np.ndarray, "U"] | None = None
    chords: Float[np.ndarray, "U"] | None = None
    flows: Float[np.ndarray, "E"] | None = None
    joint: Float[np.ndarray, "R"] | None = None

    @property
    def answered(self) -> bool:
        """Whether the solver gave multipliers at all."""
        return self.multipliers is not None


@runtime_checkable
class NodeRelaxation(Protocol):
    """One target's program.

    Attributes:
        priced: whether the distance is minimised; else the margin is, within a distance.
    """

    @property
    def priced(self) -> bool:
        """See the class."""

    def solve(self, ranges: Ranges, overshoot: float, stop: float, budget: Budget) -> Solved:
        """Solve within ranges.

        Args:
            ranges: of the units; within those the program was written for.
            overshoot: by how much the margin is to be below zero; bounds count only without.
            stop: the solver may stop once its bound is above this; where the columns have no price,
                the margin is minimised within this distance.
            budget: its deadline.
        """


class LinearNodes:
    """A linear program held in HiGHS: phases are bounds, so a node starts from the last basis."""

    def __init__(self, program: NodeProgram) -> None:
        self._program = program
        self._session = choose("lp")[0].session(program.model)
        self._top = float(program.model.row_upper[0])
        self._sides = np.stack([side[program.start :] for side in (
            program.model.lower, program.model.upper)])  # fmt: skip
        self._limits = program.model.row_lower[program.joint]
        self._shift = 0.0
        self._radius = math.inf

    @property
    def priced(self) -> bool:
        """See `NodeRelaxation`."""
        return self._program.columns.priced

    def solve(self, ranges: Ranges, overshoot: float, stop: float, budget: Budget) -> Solved:
        """See `NodeRelaxation`."""
        self._fix(ranges)
        priced = self._program.columns.priced
        if priced:
            self._demand(overshoot)
        else:
            self._limit(stop)
        target = stop if priced and math.isfinite(stop) else None
        claim = self._claim(budget, target)
        tangents = self._program.columns.tangents
        for _ in range(_ROUNDS if tangents is not None else 0):
            if claim.point is None or tangents is None or not self._refine(claim.point):
                break
            again = self._claim(budget, target)
            if again.row_duals is None:
                break
            claim = again
        return self._judged(claim)

    def _claim(self, budget: Budget, target: float | None) -> Claim:
        options = SolveOptions(
            time_limit=budget.remaining, threads=budget.threads, stop_at_bound=target, scaled=False
        )
        return self._session.solve(options)

    def _fix(self, ranges: Ranges) -> None:
        wanted = self._program.sides(ranges)
        moved = np.flatnonzero((wanted != self._sides).any(axis=0))
        if len(moved):
            columns = self._program.start + moved
            self._session.set_column_bounds(columns, wanted[0, moved], wanted[1, moved])
            self._sides = wanted
        limits = self._program.limits(ranges)
        risen = np.flatnonzero(limits != self._limits)
        if len(risen):
            rows, free = self._program.joint.start + risen, np.full(len(risen), np.inf)
            self._session.set_row_bounds(rows, limits[risen], free)
            self._limits = limits

    def _demand(self, overshoot: float) -> None:
        if overshoot != self._shift:
            side = np.array([self._top - overshoot])
            self._session.set_row_bounds(np.array([0]), np.array([-np.inf]), side)
            self._shift = overshoot

    def _limit(self, radius: float) -> None:
        if radius != self._radius:
            columns = self._program.columns
            low, high = np.maximum(columns.lower, -radius), np.minimum(columns.upper, radius)
            self._session.set_column_bounds(np.arange(len(low)), low, high)
            self._radius = radius

    def _refine(self, point: Array) -> bool:
        """Add the tangents that a solution lies above of."""
        columns = self._program.columns
        assert columns.tangents is not None
        matrix, least = columns.tangents.rows(columns, point, CUT_VIOLATION)
        if not len(least):
            return False
        wide = widen(matrix, self._program.model.columns)
        self._session.add_rows(wide, least, np.full(len(least), np.inf))
        return True

    def _judged(self, claim: Claim) -> Solved:
        program, duals = self._program, claim.row_duals
        if duals is None:
            return Solved()
        empty = claim.status is Status.INFEASIBLE
        lower = -math.inf
        if program.columns.tangents is not None:
            model = self._session.model()
            # Tangents that came after the multipliers were read have none.
            duals = np.pad(duals, (0, len(model.row_lower) - len(duals)))
            if empty:
                lower = math.inf if certifies_infeasibility(model, duals) else -math.inf
            else:
                lower = certified_lower_bound(model, duals)
        price = max(-float(duals[0]), 0.0)
        if not program.columns.priced:
            price = 0.0 if empty else 1.0
        found = Solved(
            lower=lower,
            price=price,
            multipliers=duals[program.equations],
            chords=np.maximum(-duals[program.triangles], 0.0),
            joint=np.maximum(duals[program.joint], 0.0),
        )
        return found if claim.point is None else placed(found, program, claim.point)


def placed(found: Solved, program: NodeProgram, point: Array) -> Solved:
    """What was found, and where the solution lies."""
    above, below = program.split(point)
    difference = program.columns.difference(point)
    return replace(found, difference=difference, above=above, below=below)
