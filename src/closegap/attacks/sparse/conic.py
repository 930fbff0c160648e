"""Programs with cones on solvers that know none: tangents are added until they hold."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from scipy.sparse import csr_array, vstack

from closegap.core.budget import Budget
from closegap.core.numerics import MIP_BOUND_MARGIN, MIP_FEASIBILITY, QP_ROW_SLACK
from closegap.encode.distances import fixed_integers, tangents
from closegap.mip.model import Array, Claim, Cone, Model, SolveOptions, Status
from closegap.mip.registry import choose
from closegap.verify.clause_search import mixed_integer_solvers

__all__ = ["ConicSolver", "distance_allowance"]


def distance_allowance(model: Model) -> float:
    """What a claimed bound of a distance is lowered by before it counts.

    Reduced costs and rows that are off by `MIP_FEASIBILITY` move a bound by that times the columns'
    ranges, summed; `MIP_BOUND_MARGIN` times the dearest column leaves orders of magnitude between.
    """
    dearest = float((np.abs(model.cost) * np.maximum(model.upper, 0.0)).max(initial=0.0))
    total = MIP_FEASIBILITY * float((np.abs(model.cost) * np.maximum(model.upper, 0.0)).sum())
    return MIP_BOUND_MARGIN * max(1.0, dearest) + total


_Solve: TypeAlias = Callable[[Model, SolveOptions], Claim]


class ConicSolver:
    """A mixed-integer solver that is given cones, or their tangents.

    Args:
        preference: a backend's name, or `None` for the registry's choice.
        rounds: of tangents.
    """

    def __init__(self, preference: str | None, rounds: int) -> None:
        self._solvers, self._note = mixed_integer_solvers(preference)
        self._rounds = rounds

    def solve(self, model: Model, options: SolveOptions) -> tuple[Claim, str, str]:
        """Ask the solvers in turn until one does not fail; its claim, what to report, its name.

        A bound of a program with tangents for cones is a bound of the program.
        """
        deadline = time.monotonic() + options.time_limit
        words = [self._note]
        claim, name = Claim(Status.FAILED), ""
        for solver in self._solvers:
            name = solver.name
            left = replace(options, time_limit=deadline - time.monotonic())
            if solver.capabilities.cones or not model.cones:
                claim = solver.solve(model, left)
            else:
                claim = self._outer(solver.solve, model, left)
            failed = claim.status is Status.FAILED
            state = " failed" if failed else ""
            words.append(f"{solver.name}{state}: {claim.detail or claim.status}")
            if not failed:
                break
        return claim, "; ".join(filter(None, words)), name

    def nearest(self, model: Model, budget: Budget) -> Array | None:
        """The optimum of a program without integers, in the solver's belief."""
        solver, _ = choose("lp")
        options = SolveOptions(time_limit=budget.remaining, threads=budget.threads)
        claim = self._outer(solver.solve, model, options)
        return claim.point

    def _outer(self, solve: _Solve, model: Model, options: SolveOptions) -> Claim:
        deadline = time.monotonic() + options.time_limit
        outer, nodes, bound = replace(model, cones=()), 0, -math.inf
        claim = Claim(Status.TIME)
        for _ in range(self._rounds):
            left = deadline - time.monotonic()
            answer = solve(outer, replace(options, time_limit=left))
            nodes, bound = nodes + answer.nodes, max(bound, answer.bound)
            if answer.point is None:
                keeps = claim.point is None or answer.status is Status.INFEASIBLE
                claim = answer if keeps else claim
                break
            claim = answer
            rows = tangents(model.cones, answer.point, QP_ROW_SLACK)
            if rows.shape[0] == 0 or answer.status is not Status.OPTIMAL:
                break
            if _stopped(options, bound):
                break
            outer = _with_rows(outer, rows)
            if model.integer.any():
                outer = self._tight_in_cell(outer, model.cones, answer.point, deadline)
        return replace(claim, nodes=nodes, bound=bound)

    def _tight_in_cell(
        self, outer: Model, cones: tuple[Cone, ...], point: Array, deadline: float
    ) -> Model:
        """The tangents that the optimum needs where the integers are as at a point."""
        solver, _ = choose("lp")
        cell = fixed_integers(outer, point)
        for _ in range(self._rounds):
            answer = solver.solve(cell, SolveOptions(time_limit=deadline - time.monotonic()))
            if answer.point is None:
                break
            rows = tangents(cones, answer.point, QP_ROW_SLACK)
            if rows.shape[0] == 0:
                break
            cell, outer = _with_rows(cell, rows), _with_rows(outer, rows)
        return outer


def _stopped(options: SolveOptions, bound: float) -> bool:
    """Whether the caller wants no other round, now that it knows the bound."""
    if options.on_bound is not None:
        options.on_bound(bound)
    return options.interrupted is not None and options.interrupted()


def _with_rows(model: Model, rows: csr_array) -> Model:
    count = rows.shape[0]
    return replace(
        model,
        matrix=csr_array(vstack([model.matrix, rows], format="csr")),
        row_lower=np.concatenate([model.row_lower, np.full(count, -np.inf)]),
        row_upper=np.concatenate([model.row_upper, np.zeros(count)]),
    )
