"""SCIP: mixed-integer programs with few cuts, in this process.

SCIP once ran 34 s for a limit of 12, so solves go through `closegap.mip.killable`, which runs this
class in a process that can be killed; the registry's `"scip"` does that.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from closegap.core.errors import MissingDependencyError, OptionError
from closegap.core.numerics import SMALL_COEFFICIENT
from closegap.mip._watch import Watch
from closegap.mip.model import (
    POLL_SECONDS,
    SEEDS,
    Array,
    Capabilities,
    Claim,
    LinearSession,
    Model,
    SolveOptions,
    Status,
)

__all__ = ["ScipInProcess"]

_STATUS = {
    "optimal": Status.OPTIMAL,
    "gaplimit": Status.OPTIMAL,
    "infeasible": Status.INFEASIBLE,
    "unbounded": Status.UNBOUNDED,
    "timelimit": Status.TIME,
    "nodelimit": Status.NODES,
    "totalnodelimit": Status.NODES,
    "primallimit": Status.INCUMBENT_REACHED,
    "duallimit": Status.BOUND_REACHED,
    "userinterrupt": Status.INTERRUPTED,
}

_SCIP_INFINITY = 1e20
_PROBLEM = 1  # SCIP_STAGE_PROBLEM: built, not yet solved

_EMPHASIS: dict[str, dict[str, object]] = {
    # Few cuts and one round of presolve: measured best on network subproblems.
    "light": {
        "separating/maxrounds": 0,
        "separating/maxroundsroot": 2,
        "presolving/maxrounds": 1,
    },
    "default": {},
}


class ScipInProcess:
    """SCIP in this process. Solves linear programs too, but gives no duals and no sessions."""

    name = "scip"
    capabilities = Capabilities(
        linear=True,
        integer=True,
        warm_start=False,
        duals=False,
        streams_incumbents=True,
        killable=False,
        cones=True,
    )

    def installed(self) -> bool:
        """True iff pyscipopt can be imported; does not import it."""
        return find_spec("pyscipopt") is not None

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        """Solve once. Never raises for infeasible, unbounded or time; `FAILED` says why."""
        begun = time.monotonic()
        early = model.without_solver(options)
        if early is not None:
            return early
        run = _Run(model, options, begun + options.time_limit)
        return replace(run.solve(), seconds=time.monotonic() - begun)

    def session(self, model: Model) -> LinearSession:
        """SCIP holds no linear programs.

        Raises:
            OptionError: always.
        """
        raise OptionError("scip holds no linear programs for repeated solves; use highs")


class _Run:
    """One solve: the native model, its variables in our order, and what was seen so far."""

    def __init__(self, model: Model, options: SolveOptions, deadline: float) -> None:
        self._model = model
        self._options = options
        self._watch = Watch(options, deadline)
        self._native, self._variables = _build(model, _parameters(options))

    def solve(self) -> Claim:
        try:
            self._listen()
            if self._options.start is not None:
                self._begin_at(self._options.start)
            ended = self._optimise() if self._watch.reason is None else "userinterrupt"
            if ended == "inforunbd":
                ended = self._tell_apart()
            self._watch.raise_what_was_caught()
            return self._claim(ended)
        finally:
            # The native model and this object hold each other; without this nothing is freed.
            self._native.freeProb()
            self._variables.clear()

    def _optimise(self) -> str:
        left = max(0.0, self._watch.deadline - time.monotonic())
        if math.isfinite(left):
            self._native.setParam("limits/time", left)
        finished = threading.Event()
        monitor = threading.Thread(target=self._monitor, args=(finished,), daemon=True)
        monitor.start()
        try:
            self._native.optimizeNogil()
        finally:
            finished.set()
            monitor.join()
        return str(self._native.getStatus())

    def _monitor(self, finished: threading.Event) -> None:
        """Ask every now and then whether to stop; SCIP's flag may be set from any thread."""
        while not finished.wait(POLL_SECONDS):
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._watch.stops():
            self._native.interruptSolve()

    def _listen(self) -> None:
        kinds = _pyscipopt().SCIP_EVENTTYPE
        self._native.attachEventHandlerCallback(self._improved, [kinds.BESTSOLFOUND])
        # The bound is looked at after every node too: the event of its rise may come too soon
        # after the last one to be passed on.
        events = [kinds.DUALBOUNDIMPROVED, kinds.NODESOLVED]
        self._native.attachEventHandlerCallback(self._bounded, events)

    def _improved(self, _native: Any, _event: Any) -> None:
        point = self._values(self._native.getBestSol())
        self._watch.offer(point, self._model.objective(point))
        self._stop_if_asked()

    def _bounded(self, _native: Any, _event: Any) -> None:
        self._watch.bounded(_without_sentinel(float(self._native.getDualbound())))
        self._stop_if_asked()

    def _begin_at(self, start: Array) -> None:
        """Offer the start: whole, or its integer part alone for SCIP to complete."""
        whole = self._model.violation(start) <= self._options.feasibility
        point = self._native.createOrigSol() if whole else self._native.createPartialSol()
        for index, variable in enumerate(self._variables):
            if whole or self._model.integer[index]:
                self._native.setSolVal(point, variable, float(start[index]))
        self._native.addSol(point)
        if whole:
            self._watch.offer(start, self._model.objective(start))

    def _values(self, solution: Any) -> Array:
        value = self._native.getSolVal
        return np.array([value(solution, variable) for variable in self._variables])

    def _tell_apart(self) -> str:
        """Infeasible or unbounded: which of the two? Solve again for any feasible point."""
        feasibility = replace(self._model, cost=np.zeros(self._model.columns))
        left = self._watch.deadline - time.monotonic()
        options = SolveOptions(time_limit=left, interrupted=self._options.interrupted)
        ended = _Run(feasibility, options, self._watch.deadline).solve().status
        names = {Status.OPTIMAL: "unbounded", Status.INFEASIBLE: "infeasible"}
        return names.get(ended, "timelimit")

    def _claim(self, ended: str) -> Claim:
        status = _STATUS.get(ended, Status.FAILED)
        if status is Status.INTERRUPTED:
            status = self._watch.reason or status
        nodes = int(self._native.getNTotalNodes()) if self._native.getStage() > _PROBLEM else 0
        claim = Claim(status, nodes=nodes, detail=f"SCIP: {ended}")
        if status is Status.INFEASIBLE:
            return replace(claim, bound=math.inf)
        if status is Status.UNBOUNDED:
            return claim
        begun = self._native.getStage() > _PROBLEM  # not if the start already met its target
        if begun and self._native.getNSols() > 0:
            last = self._values(self._native.getBestSol())
            self._watch.keep(last, self._model.objective(last))
        bound = _without_sentinel(float(self._native.getDualbound())) if begun else -math.inf
        best, point = self._watch.best, self._watch.point
        if status is Status.OPTIMAL and point is None:
            return replace(claim, status=Status.FAILED, detail="SCIP: optimal without a point")
        return replace(claim, objective=best, bound=bound, point=point)


def _pyscipopt() -> ModuleType:
    try:
        import pyscipopt  # native and slow to load: only where something is solved
    except ImportError as error:
        raise MissingDependencyError(f"pyscipopt cannot be imported ({error})") from None
    return pyscipopt


def _build(model: Model, parameters: dict[str, object]) -> tuple[Any, list[Any]]:
    """The native model and its variables, in the order of our columns.

    SCIP's own list of variables is in another order, so it is never asked for.
    """
    from pyscipopt.scip import Expr, ExprCons, Term

    native = _pyscipopt().Model()
    native.hideOutput()
    _set_options(native, parameters)  # first: rows are rounded by them as they are added
    lower, upper = (_sides(values) for values in (model.lower, model.upper))
    variables = [
        native.addVar(f"v{index}", "I" if integer else "C", low, high, cost)
        for index, (integer, low, high, cost) in enumerate(
            zip(model.integer.tolist(), lower, upper, model.cost.tolist(), strict=True)
        )
    ]
    native.addObjoffset(model.constant)
    # A dictionary from terms to coefficients is what pyscipopt's expressions are inside; handing
    # one over is twice as fast as summing products.
    terms = [Term(variable) for variable in variables]
    starts = model.matrix.indptr.tolist()
    columns, values = model.matrix.indices.tolist(), model.matrix.data.tolist()
    sides = zip(_sides(model.row_lower), _sides(model.row_upper), strict=True)
    for row, (low, high) in enumerate(sides):
        if low is None and high is None:
            continue
        entries = slice(starts[row], starts[row + 1])
        row_terms = [terms[column] for column in columns[entries]]
        expression = Expr(dict(zip(row_terms, values[entries], strict=True)))
        native.addCons(ExprCons(expression, lhs=low, rhs=high))
    for cone in model.cones:
        squares = {Term(variables[j], variables[j]): 1.0 for j in cone.columns.tolist()}
        squares[Term(variables[cone.bound], variables[cone.bound])] = -1.0
        native.addCons(ExprCons(Expr(squares), rhs=0.0))
    return native, variables


def _sides(values: Array) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


def _parameters(options: SolveOptions) -> dict[str, object]:
    values: dict[str, object] = {
        "numerics/epsilon": min(SMALL_COEFFICIENT, options.feasibility),
        "numerics/feastol": options.feasibility,
        "numerics/dualfeastol": options.feasibility,
        "misc/catchctrlc": False,
        "limits/gap": options.gap,
        "lp/threads": options.threads,
        "randomization/randomseedshift": options.seed % SEEDS,
    }
    if options.node_limit is not None:
        values["limits/totalnodes"] = options.node_limit
    return values | _EMPHASIS[options.emphasis]


def _set_options(native: Any, values: dict[str, object]) -> None:
    for name, value in values.items():
        try:
            native.setParam(name, value)
        except (ValueError, KeyError, TypeError) as error:
            raise OptionError(f"SCIP refuses {name} = {value} ({error})") from None


def _without_sentinel(value: float) -> float:
    """SCIP says 1e20 for infinity."""
    return value if abs(value) < _SCIP_INFINITY else math.copysign(math.inf, value)
