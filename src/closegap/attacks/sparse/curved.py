"""Node programs whose distance is not linear: l2, and lengths of gradients.

A solver's multipliers become planes and flows, evaluated anew in `planes`; its bounds and points
are beliefs. What it cannot answer a linear program does, in the same rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.attacks.sparse.options import Curved
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.program import NodeProgram
from closegap.attacks.sparse.relaxation import LinearNodes, NodeRelaxation, Solved, placed
from closegap.core.budget import Budget
from closegap.encode.expression import widen
from closegap.mip.clarabel import ClarabelBackend
from closegap.mip.conic import ConicModel
from closegap.mip.model import Claim, SolveOptions
from closegap.mip.piqp import solve_quadratic
from closegap.mip.quadratic import QuadraticModel
from closegap.specs.objectives import L1TvDistance, L2Distance, Objective

__all__ = ["CurvedNodes", "curved_note", "node_relaxation"]

Array = NDArray[np.float64]
_Solve: TypeAlias = Callable[[ConicModel, Budget], Claim]


def node_relaxation(
    program: NodeProgram, linear: Callable[[], NodeProgram], curved: Curved = Curved.PLAIN
) -> NodeRelaxation:
    """The program of one target, with the solver that fits the distance.

    Args:
        program: of the distance.
        linear: the same rows under a linear cost.
        curved: who solves those that are not linear.
    """
    columns = program.columns
    clarabel = curved is Curved.CLARABEL and ClarabelBackend().installed()
    if columns.curvature.any():
        return CurvedNodes(program, linear, _by_clarabel if clarabel else _by_piqp)
    if clarabel and columns.tangents is not None and columns.tangents.isotropic:
        return CurvedNodes(program, lambda: program, _by_clarabel)
    return LinearNodes(program)


def curved_note(curved: Curved, objective: Objective) -> tuple[str, ...]:
    """Which solver is missing for an objective, and who is asked instead."""
    other = "PIQP" if isinstance(objective, L2Distance) else ""
    if isinstance(objective, L1TvDistance) and objective.isotropic:
        other = "HiGHS, under tangents,"
    if curved is not Curved.CLARABEL or not other or ClarabelBackend().installed():
        return ()
    return (f"clarabel is not installed (pip install closegap[conic]); {other} is used",)


class CurvedNodes:
    """A quadratic or conic program, solved anew in every node.

    Args:
        program: of the distance.
        linear: the same rows under a linear cost: where the solver has no answer, multipliers of
            this one are taken, which prove that a node is empty, say.
        solve: the solver.
    """

    priced = True

    def __init__(
        self, program: NodeProgram, linear: Callable[[], NodeProgram], solve: _Solve
    ) -> None:
        self._program = program
        self._linear, self._solve = linear, solve
        self._fallback: LinearNodes | None = None
        model, columns = program.model, program.columns
        self._ends = [end[: program.start].copy() for end in (model.lower, model.upper)]
        self._cones, self._offsets = csr_array((0, model.columns)), np.zeros(0)
        if columns.tangents is not None:
            cones, self._offsets = columns.tangents.cones(columns)
            self._cones = widen(cones, model.columns)
            for end, free in zip(self._ends, (-np.inf, np.inf), strict=True):
                end[columns.tangents.start :] = free  # the cones hold them
        self._sizes = (3,) * (len(self._offsets) // 3)

    def solve(self, ranges: Ranges, overshoot: float, stop: float, budget: Budget) -> Solved:
        """See `NodeRelaxation`."""
        if budget.expired:
            return Solved()
        program = self._program
        claim = self._solve(self._model(ranges, overshoot), budget)
        duals, tangents = claim.row_duals, program.columns.tangents
        if duals is None or claim.point is None:
            if budget.expired:
                return Solved()
            if self._fallback is None:
                self._fallback = LinearNodes(self._linear())
            return self._fallback.solve(ranges, overshoot, math.inf, budget)
        flows = None
        if tangents is not None and claim.cone_duals is not None:
            flows = tangents.flows(claim.cone_duals)
        found = Solved(
            price=max(-float(duals[0]), 0.0),
            multipliers=duals[program.equations],
            chords=np.maximum(-duals[program.triangles], 0.0),
            flows=flows,
            joint=np.maximum(duals[program.joint], 0.0),
        )
        return placed(found, program, claim.point)

    def _model(self, ranges: Ranges, overshoot: float) -> ConicModel:
        """The node's program."""
        program, model = self._program, self._program.model
        sides, least = model.row_upper.copy(), model.row_lower.copy()
        sides[0] -= overshoot
        least[program.joint] = program.limits(ranges)
        lower, upper = (
            np.concatenate([end, side])
            for end, side in zip(self._ends, program.sides(ranges), strict=True)
        )
        quadratic = QuadraticModel(
            curvature=np.concatenate([program.columns.curvature, np.zeros(2 * program.units)]),
            cost=model.cost,
            matrix=model.matrix,
            row_lower=least,
            row_upper=sides,
            lower=lower,
            upper=upper,
        )
        return ConicModel(quadratic, self._cones, self._offsets, self._sizes, model.constant)


def _by_piqp(model: ConicModel, budget: Budget) -> Claim:
    return solve_quadratic(model.quadratic, budget.remaining)


def _by_clarabel(model: ConicModel, budget: Budget) -> Claim:
    options = SolveOptions(time_limit=budget.remaining, threads=budget.threads)
    return ClarabelBackend().solve_conic(model, options)
