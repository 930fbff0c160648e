"""HiGHS: linear programs with a warm basis, and mixed-integer programs.

Measured on network subproblems: on composed rows (rows in the input variables only) the dual
simplex without presolve is two to six times as fast as with it, so presolve is off for linear
programs unless they fail without it.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from closegap.core.errors import OptionError, SolverError
from closegap.mip._highs_native import (
    common_options,
    floats,
    highspy_module,
    new_native,
    pass_model,
    run_native,
    set_options,
)
from closegap.mip._watch import Watch
from closegap.mip.model import (
    Array,
    Capabilities,
    Claim,
    Model,
    SolveOptions,
    Status,
)

__all__ = ["HighsBackend", "HighsSession"]

_DUAL_SIMPLEX = 1
_CHOOSE_SCALE, _NO_SCALE = 2, 0

_STATUS = {
    "kOptimal": Status.OPTIMAL,
    "kInfeasible": Status.INFEASIBLE,
    "kUnbounded": Status.UNBOUNDED,
    "kTimeLimit": Status.TIME,
    "kSolutionLimit": Status.NODES,
    "kObjectiveTarget": Status.INCUMBENT_REACHED,
    "kObjectiveBound": Status.BOUND_REACHED,
}


class HighsBackend:
    """HiGHS in this process. Holds no state; every solve has its own native object.

    A mixed-integer solve can overrun its limit (the searches inside it do not poll). One that must
    end in time runs in a process of its own, see `closegap.mip.killable`.
    """

    name = "highs"
    capabilities = Capabilities(
        linear=True,
        integer=True,
        warm_start=True,
        duals=True,
        streams_incumbents=True,
        killable=False,
        notes=("drops coefficients below 1e-12",),
    )

    def installed(self) -> bool:
        """True iff highspy can be imported; does not import it."""
        return find_spec("highspy") is not None

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        """Solve once. Never raises for infeasible, unbounded or time; `FAILED` says why."""
        begun = time.monotonic()
        if options.time_limit <= 0.0:
            return Claim(Status.TIME, detail="no time was left")
        if model.is_linear:
            session = HighsSession(model)
            left = options.time_limit - (time.monotonic() - begun)
            claim = session.solve(replace(options, time_limit=left))
        else:
            claim = _solve_integer(model, options, begun + options.time_limit)
        return replace(claim, seconds=time.monotonic() - begun)

    def session(self, model: Model) -> HighsSession:
        """Hold a linear program for repeated solves.

        Raises:
            OptionError: the model has integers.
        """
        return HighsSession(model)


class HighsSession:
    """A linear program held in HiGHS: dual simplex, presolve off, re-solved from the last basis.

    Raises:
        OptionError: the model has integers.
    """

    def __init__(self, model: Model) -> None:
        if not model.is_linear:
            raise OptionError("a session holds linear programs; this model has integer variables")
        self._native = new_native()
        self._set(solver="simplex", simplex_strategy=_DUAL_SIMPLEX, presolve="off")
        self._refused = pass_model(self._native, model)
        self._model = _copy(model)

    def model(self) -> Model:
        """The program as it stands, with every change made so far; a copy."""
        return _copy(self._model)

    def set_costs(self, cost: Array, constant: float = 0.0) -> None:
        """Replace the objective.

        Raises:
            SolverError: here and in the other changes: a NaN, a wrong length, an index outside.
        """
        _no_nan("set_costs", cost)
        self._model = replace(self._model, cost=cost.copy(), constant=constant)
        columns = np.arange(len(cost), dtype=np.int32)
        self._check(self._native.changeColsCost(len(cost), columns, floats(cost)), "set_costs")
        self._check(self._native.changeObjectiveOffset(constant), "set_costs")

    def set_column_bounds(self, columns: NDArray[np.int64], lower: Array, upper: Array) -> None:
        """Replace the bounds of some columns."""
        _no_nan("set_column_bounds", lower, upper)
        self._model.lower[columns] = lower
        self._model.upper[columns] = upper
        status = self._native.changeColsBounds(
            len(columns), columns.astype(np.int32), floats(lower), floats(upper)
        )
        self._check(status, "set_column_bounds")

    def set_row_bounds(self, rows: NDArray[np.int64], lower: Array, upper: Array) -> None:
        """Replace the sides of some rows."""
        _no_nan("set_row_bounds", lower, upper)
        self._model.row_lower[rows] = lower
        self._model.row_upper[rows] = upper
        status = self._native.changeRowsBounds(
            len(rows), rows.astype(np.int32), floats(lower), floats(upper)
        )
        self._check(status, "set_row_bounds")

    def add_rows(self, matrix: csr_array, row_lower: Array, row_upper: Array) -> None:
        """Append rows; the basis is kept, with the new rows' slacks in it."""
        if matrix.shape[0] == 0:
            return
        _no_nan("add_rows", matrix.data, row_lower, row_upper)
        status = self._native.addRows(
            matrix.shape[0],
            floats(row_lower),
            floats(row_upper),
            matrix.nnz,
            matrix.indptr[:-1].astype(np.int32),
            matrix.indices.astype(np.int32),
            floats(matrix.data),
        )
        self._check(status, "add_rows")
        sides = (self._model.row_lower, row_lower), (self._model.row_upper, row_upper)
        lower, upper = (np.concatenate(pair) for pair in sides)
        grown = csr_array(vstack([self._model.matrix, matrix], format="csr"))
        self._model = replace(self._model, matrix=grown, row_lower=lower, row_upper=upper)

    def basis(self) -> object:
        """The last basis; HiGHS's own object."""
        return self._native.getBasis()

    def set_basis(self, basis: object) -> None:
        """Start the next solve from a basis of a session with equally many rows and columns."""
        self._check(self._native.setBasis(basis), "set_basis")

    def solve(self, options: SolveOptions) -> Claim:
        """Solve from the last basis. `options.start` is not used."""
        begun = time.monotonic()
        if self._refused:
            return Claim(Status.FAILED, detail=self._refused)
        if options.time_limit <= 0.0:
            return Claim(Status.TIME, detail="no time was left")
        if self._model.columns == 0:
            return _without_columns(self._model)
        watch = Watch(options, begun + options.time_limit)
        if options.interrupted is not None:
            self._native.cbSimplexInterrupt.subscribe(lambda event: _stop_if(watch, event))
        try:
            claim = self._run(options, watch)
        finally:
            self._native.cbSimplexInterrupt.clear()
        watch.raise_what_was_caught()
        if claim.point is not None and options.on_incumbent is not None:
            options.on_incumbent(claim.point, claim.objective)
        return replace(claim, seconds=time.monotonic() - begun)

    def _run(self, options: SolveOptions, watch: Watch) -> Claim:
        target = math.inf if options.stop_at_bound is None else options.stop_at_bound
        scale = _CHOOSE_SCALE if options.scaled else _NO_SCALE
        self._set(**common_options(options), objective_bound=target, simplex_scale_strategy=scale)
        self._limit_time(watch)
        ended = run_native(self._native)
        if ended not in _STATUS and watch.reason is None:
            self._native.clearSolver()
            self._set(presolve="on")
            self._limit_time(watch)
            ended = run_native(self._native)
            self._set(presolve="off")
        return self._claim(ended, watch, target)

    def _limit_time(self, watch: Watch) -> None:
        # The simplex measures its limit on a clock that runs on over all solves of one object.
        left = max(0.0, watch.deadline - time.monotonic())
        self._set(time_limit=self._native.getRunTime() + left)

    def _claim(self, ended: str, watch: Watch, target: float) -> Claim:
        status = watch.reason or _STATUS.get(ended, Status.FAILED)
        solution = self._native.getSolution()
        duals = np.asarray(solution.row_dual) if solution.dual_valid else None
        claim = Claim(status, row_duals=duals, detail=f"HiGHS: {ended}")
        if status is Status.BOUND_REACHED:
            return replace(claim, bound=target)
        if status is Status.INFEASIBLE:
            found, ray = self._native.getDualRay()[1:]
            return replace(claim, bound=math.inf, row_duals=np.asarray(ray) if found else None)
        if status is not Status.OPTIMAL:
            return claim
        objective = float(self._native.getInfo().objective_function_value)
        return replace(
            claim,
            objective=objective,
            bound=objective,
            point=np.asarray(solution.col_value),
            reduced_costs=np.asarray(solution.col_dual),
        )

    def _set(self, **values: object) -> None:
        set_options(self._native, values)

    def _check(self, status: Any, what: str) -> None:
        if status.name == "kError":
            raise SolverError(
                f"HiGHS refused {what}: a value it does not take, wrong lengths, "
                "or an index outside the model"
            )


def _without_columns(model: Model) -> Claim:
    """HiGHS calls every program without columns optimal, whatever its rows ask."""
    ray = (model.row_lower > 0.0) * 1.0 - (model.row_upper < 0.0) * 1.0
    if ray.any():
        return Claim(Status.INFEASIBLE, bound=math.inf, row_duals=ray, detail="a row of zeros")
    value, none = model.constant, np.zeros(0)
    return Claim(Status.OPTIMAL, value, value, none, np.zeros(model.rows), none)


def _solve_integer(model: Model, options: SolveOptions, deadline: float) -> Claim:
    native = new_native()
    refused = pass_model(native, model)
    if refused:
        return Claim(Status.FAILED, detail=refused)
    if options.start is not None:
        start = highspy_module().HighsSolution()
        start.col_value = options.start.tolist()
        native.setSolution(start)
    watch = Watch(options, deadline)
    native.cbMipImprovingSolution.subscribe(lambda event: _improved(watch, event))
    native.cbMipInterrupt.subscribe(lambda event: _between_nodes(watch, event))
    native.cbSimplexInterrupt.subscribe(lambda event: _stop_if(watch, event))
    values = common_options(options) | {
        "mip_feasibility_tolerance": options.feasibility,
        "mip_rel_gap": options.gap,
        "mip_abs_gap": options.feasibility,
        "time_limit": max(0.0, deadline - time.monotonic()),
    }
    if options.node_limit is not None:
        values["mip_max_nodes"] = options.node_limit
    set_options(native, values)
    ended = run_native(native)
    if ended == "kUnboundedOrInfeasible":
        ended = _tell_apart(native, watch)
    watch.raise_what_was_caught()
    return _integer_claim(native, ended, watch.reason, model)


def _improved(watch: Watch, event: Any) -> None:
    """A better feasible point was found."""
    found = event.data_out
    watch.offer(np.array(found.mip_solution), float(found.objective_function_value))


def _between_nodes(watch: Watch, event: Any) -> None:
    watch.bounded(float(event.data_out.mip_dual_bound))
    _stop_if(watch, event)


def _stop_if(watch: Watch, event: Any) -> None:
    if watch.stops():
        event.interrupt()


def _tell_apart(native: Any, watch: Watch) -> str:
    """Which of the two it is: solve again for any feasible point."""
    columns = native.getNumCol()
    native.changeColsCost(columns, np.arange(columns, dtype=np.int32), np.zeros(columns))
    native.cbMipImprovingSolution.clear()
    set_options(native, {"time_limit": max(0.0, watch.deadline - time.monotonic())})
    ended = run_native(native)
    return "kUnbounded" if ended == "kOptimal" else ended


def _integer_claim(native: Any, ended: str, reason: Status | None, model: Model) -> Claim:
    info = native.getInfo()
    status = _STATUS.get(ended, Status.FAILED)
    if ended == "kInterrupt" and reason is not None:
        status = reason
    claim = Claim(status, nodes=max(0, int(info.mip_node_count)), detail=f"HiGHS: {ended}")
    if status is Status.INFEASIBLE:
        return replace(claim, bound=math.inf)
    if status in (Status.UNBOUNDED, Status.FAILED):
        return claim
    claim = replace(claim, bound=_finite_or(float(info.mip_dual_bound), -math.inf))
    solution = native.getSolution()
    if (
        not solution.value_valid
        or info.primal_solution_status != highspy_module().kSolutionStatusFeasible
    ):
        return claim
    point = np.asarray(solution.col_value)
    objective = float(model.cost @ point) + model.constant
    return replace(claim, objective=objective, point=point)


def _copy(model: Model) -> Model:
    arrays = ("cost", "row_lower", "row_upper", "lower", "upper")
    return replace(model, **{name: getattr(model, name).copy() for name in arrays})


def _no_nan(what: str, *arrays: Array) -> None:
    if any(np.isnan(array).any() for array in arrays):
        raise SolverError(f"{what}: a NaN among the new values; the session is unchanged")


def _finite_or(value: float, other: float) -> float:
    return value if math.isfinite(value) else other
