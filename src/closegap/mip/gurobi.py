"""Gurobi: linear and mixed-integer programs, with cones, where it is installed and licensed.

The wheel's own licence takes 2000 columns and 2000 rows. A program beyond a licence, or no licence
at all, is a claim that failed, in Gurobi's words; whoever asked turns to the next solver.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_matrix

from closegap.core.errors import MissingDependencyError, OptionError
from closegap.core.numerics import MIP_FEASIBILITY
from closegap.mip._watch import Watch
from closegap.mip.model import (
    SEEDS,
    Array,
    Capabilities,
    Claim,
    Cone,
    LinearSession,
    Model,
    SolveOptions,
    Status,
)

__all__ = ["GurobiBackend"]

#: `GRB.Status`, by number.
_STATUS = {
    2: Status.OPTIMAL,
    3: Status.INFEASIBLE,
    5: Status.UNBOUNDED,
    8: Status.NODES,
    9: Status.TIME,
    11: Status.INTERRUPTED,
}
_LOADED, _INFEASIBLE_OR_UNBOUNDED = 1, 4
#: What Gurobi takes for infinity.
_INFINITY = 1e100
#: The tolerances that it accepts.
_FINEST, _COARSEST = MIP_FEASIBILITY, 1e-2
_LIGHT = {"Cuts": 0, "Presolve": 1}


class GurobiBackend:
    """Gurobi in this process; every solve has its own environment. Gives no duals, no sessions."""

    name = "gurobi"
    capabilities = Capabilities(
        linear=True,
        integer=True,
        warm_start=False,
        duals=False,
        streams_incumbents=True,
        killable=False,
        cones=True,
        notes=("optional, and licensed: pip install closegap[gurobi]",),
    )

    def installed(self) -> bool:
        """True iff gurobipy can be imported; does not import it, nor ask for a licence."""
        return find_spec("gurobipy") is not None

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        """Solve once. Never raises for infeasible, unbounded or time; `FAILED` says why."""
        begun = time.monotonic()
        early = model.without_solver(options)
        if early is not None:
            return early
        gurobi = _gurobipy()
        try:
            with gurobi.Env(params={"OutputFlag": 0}) as env, gurobi.Model(env=env) as native:
                claim = _Run(model, options, native, begun + options.time_limit).solve()
        except gurobi.GurobiError as error:
            words = " ".join(str(error).split())
            claim = Claim(Status.FAILED, detail=f"Gurobi: {words}")
        return replace(claim, seconds=time.monotonic() - begun)

    def session(self, model: Model) -> LinearSession:
        """Gurobi holds no linear programs here.

        Raises:
            OptionError: always.
        """
        raise OptionError("gurobi holds no linear programs for repeated solves; use highs")


class _Run:
    """One solve: the native model, and what was seen so far."""

    def __init__(self, model: Model, options: SolveOptions, native: Any, deadline: float) -> None:
        self._model, self._options, self._native = model, options, native
        self._watch = Watch(options, deadline)
        self._codes = _gurobipy().GRB.Callback
        self._columns = _build(native, model)

    def solve(self) -> Claim:
        for name, value in _parameters(self._options).items():
            self._native.setParam(name, value)
        if self._options.start is not None:
            self._begin_at(self._options.start)
        if self._watch.reason is None:
            self._optimise()
        self._watch.raise_what_was_caught()
        return self._claim()

    def _optimise(self) -> None:
        self._go_on()
        if self._native.Status == _INFEASIBLE_OR_UNBOUNDED:
            self._native.setParam("DualReductions", 0)
            self._native.reset()
            self._go_on()

    def _go_on(self) -> None:
        left = self._watch.deadline - time.monotonic()
        self._native.setParam("TimeLimit", min(max(left, 0.0), _INFINITY))
        self._native.optimize(self._heard)

    def _heard(self, native: Any, where: int) -> None:
        """Gurobi prints what a callback raises, and goes on; the watch keeps it instead."""
        try:
            if where == self._codes.MIPSOL:
                self._offer(np.asarray(native.cbGetSolution(self._columns)))
            elif where == self._codes.MIP:
                self._watch.bounded(_finite(float(native.cbGet(self._codes.MIP_OBJBND))))
        except BaseException as error:
            self._watch.caught(error)
        if self._watch.stops():
            native.terminate()

    def _offer(self, point: Array) -> None:
        self._watch.offer(point, self._model.objective(point))

    def _begin_at(self, start: Array) -> None:
        """Offer the start: whole, or its integer part alone for Gurobi to complete."""
        whole = self._model.violation(start) <= self._options.feasibility
        undefined = _gurobipy().GRB.UNDEFINED
        self._columns.Start = np.where(whole | self._model.integer, start, undefined)
        if whole:
            self._offer(start)

    def _claim(self) -> Claim:
        native, continuous = self._native, not bool(self._model.integer.any())
        ended = int(native.Status)
        status = _STATUS.get(ended, Status.FAILED)
        if self._watch.reason is not None and status not in (Status.OPTIMAL, Status.INFEASIBLE):
            status = self._watch.reason
        nodes = 0 if continuous or ended == _LOADED else int(native.NodeCount)
        claim = Claim(status, nodes=nodes, detail=f"Gurobi: status {ended}")
        if status is Status.INFEASIBLE:
            return replace(claim, bound=math.inf)
        if status is Status.UNBOUNDED:
            return claim
        if (
            ended != _LOADED
            and native.SolCount > 0
            and (not continuous or status is Status.OPTIMAL)
        ):
            last = np.asarray(self._columns.X)
            self._watch.keep(last, self._model.objective(last))
        best, point = self._watch.best, self._watch.point
        if status is Status.OPTIMAL and point is None:
            return replace(claim, status=Status.FAILED, detail="Gurobi: optimal without a point")
        bound = self._watch.bound
        if not continuous and ended != _LOADED:
            bound = max(bound, _finite(float(native.ObjBound)))
        elif self._model.is_linear and status is Status.OPTIMAL:
            bound = float(native.ObjVal)  # over cones it is a barrier's, and no bound
        return replace(claim, objective=best, bound=bound, point=point)


def _gurobipy() -> ModuleType:
    try:
        import gurobipy  # optional, and native: only where something is solved
    except ImportError as error:
        raise MissingDependencyError(
            f"gurobipy cannot be imported ({error}); pip install closegap[gurobi]"
        ) from None
    return gurobipy  # type: ignore[no-any-return]


def _build(native: Any, model: Model) -> Any:
    """The program in the native model; returns its columns, in our order."""
    columns = native.addMVar(
        model.columns,
        lb=np.maximum(model.lower, -_INFINITY),
        ub=np.minimum(model.upper, _INFINITY),
        obj=model.cost,
        vtype=np.where(model.integer, "I", "C"),
    )
    native.ObjCon = model.constant
    equal = model.row_lower == model.row_upper
    matrix = csr_matrix(model.matrix)
    for sense, sides, chosen in (
        ("=", model.row_lower, equal),
        (">", model.row_lower, ~equal & np.isfinite(model.row_lower)),
        ("<", model.row_upper, ~equal & np.isfinite(model.row_upper)),
    ):
        if chosen.any():
            native.addMConstr(matrix[chosen], columns, sense, sides[chosen])
    for cone in model.cones:
        _add_cone(native, columns, cone)
    native.update()
    return columns


def _add_cone(native: Any, columns: Any, cone: Cone) -> None:
    """The squares of its columns are at most its bound's."""
    count = len(cone.columns)
    signs = np.append(np.ones(count), -1.0)
    at = np.arange(count + 1)
    taken = columns[np.append(cone.columns, cone.bound)]
    square = csr_matrix(coo_array((signs, (at, at))))
    native.addMQConstr(square, None, "<", 0.0, taken, taken)


def _parameters(options: SolveOptions) -> dict[str, float]:
    finest = min(max(options.feasibility, _FINEST), _COARSEST)
    values: dict[str, float] = {
        "Threads": options.threads,
        "Seed": options.seed % SEEDS,
        "FeasibilityTol": finest,
        "OptimalityTol": finest,
        "IntFeasTol": finest,
        "BarQCPConvTol": finest,
        "MIQCPMethod": 1,  # planes outside the cones: their bounds hold, a barrier's nearly do
        "MIPGap": options.gap,
        "MIPGapAbs": 0.0,
    }
    if options.node_limit is not None:
        values["NodeLimit"] = options.node_limit
    return values | (_LIGHT if options.emphasis == "light" else {})


def _finite(value: float) -> float:
    """Gurobi says 1e100 for infinity."""
    return value if abs(value) < _INFINITY else math.copysign(math.inf, value)
