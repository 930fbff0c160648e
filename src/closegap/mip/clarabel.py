"""Clarabel: convex quadratic programs with second-order cones, by an interior-point method.

It gives multipliers of rows and cones, and holds no program between solves. What it returns counts
as an optimum only with rows and cones that hold. Columns without room are taken out, and rows
whose sides touch are equations: there is no interior between them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, csc_matrix, csr_array, diags_array, vstack

from closegap.core.errors import MissingDependencyError, OptionError
from closegap.core.numerics import QP_ROW_SLACK, QP_TOLERANCE
from closegap.mip.conic import ConicModel
from closegap.mip.model import (
    Array,
    Capabilities,
    Claim,
    LinearSession,
    Model,
    SolveOptions,
    Status,
)

__all__ = ["ClarabelBackend"]

_STATUS = {
    "Solved": Status.OPTIMAL,
    "AlmostSolved": Status.OPTIMAL,
    "PrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "MaxTime": Status.TIME,
    "CallbackTerminated": Status.INTERRUPTED,
}


class ClarabelBackend:
    """Clarabel in this process. Holds no state; every solve has its own native object."""

    name = "clarabel"
    capabilities = Capabilities(
        linear=True,
        integer=False,
        warm_start=False,
        duals=True,
        streams_incumbents=False,
        killable=False,
        cones=True,
        notes=("optional: pip install closegap[conic]",),
    )

    def installed(self) -> bool:
        """True iff clarabel can be imported; does not import it."""
        return find_spec("clarabel") is not None

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        """Solve once. Never raises for infeasible, unbounded or time; `FAILED` says why.

        Targets and starts are not used; the time limit is overrun by an iteration at most.
        """
        flaw = model.flaw()
        if flaw or model.integer.any():
            return Claim(Status.FAILED, detail=flaw or "Clarabel: the model has integers")
        return self.solve_conic(ConicModel.of(model), options)

    def solve_conic(self, model: ConicModel, options: SolveOptions) -> Claim:
        """As `solve`, of a program with a quadratic cost and cones of affine functions."""
        begun = time.monotonic()
        if options.time_limit <= 0.0:
            return Claim(Status.TIME, detail="no time was left")
        flaw = model.flaw()
        if flaw:
            return Claim(Status.FAILED, detail=flaw)
        base = model.quadratic
        if (base.lower > base.upper).any() or (base.row_lower > base.row_upper).any():
            return Claim(Status.INFEASIBLE, bound=math.inf, detail="crossing bounds")
        claim = _Run(model, options).solve()
        return replace(claim, seconds=time.monotonic() - begun)

    def session(self, model: Model) -> LinearSession:
        """Clarabel holds no linear programs.

        Raises:
            OptionError: always.
        """
        raise OptionError("clarabel holds no linear programs for repeated solves; use highs")


@dataclass(frozen=True, eq=False)
class _Standard:
    """`matrix v + slack = right` over the free columns, slack in zero, nonnegative and other cones.

    Attributes:
        matrix, right: rows; first equations, then inequalities, then the cones'.
        equations, inequalities: how many there are.
        rows, signs: of those of the model's rows: which, and 1 for an upper side or -1.
    """

    matrix: csc_array
    right: Array
    equations: int
    inequalities: int
    rows: NDArray[np.int64]
    signs: Array


class _Run:
    """One solve."""

    def __init__(self, model: ConicModel, options: SolveOptions) -> None:
        self._model, self._options = model, options
        base = model.quadratic
        self._fixed = _touching(base.lower, base.upper)
        self._point = np.where(self._fixed, _middle(base.lower, base.upper), 0.0)
        self._spent = model.objective(self._point)

    def solve(self) -> Claim:
        clarabel = _clarabel()
        base, free = self._model.quadratic, ~self._fixed
        if not free.any():
            return self._without_columns()
        program = _standard(self._model, free, self._point)
        cones: list[Any] = [
            clarabel.ZeroConeT(program.equations), clarabel.NonnegativeConeT(program.inequalities),
            *(clarabel.SecondOrderConeT(size) for size in self._model.sizes),
        ]  # fmt: skip
        held: list[BaseException] = []
        solver = clarabel.DefaultSolver(
            csc_matrix(diags_array(base.curvature[free])),
            base.cost[free],
            csc_matrix(program.matrix),
            program.right,
            cones,
            _settings(clarabel, self._options),
        )
        if self._options.interrupted is not None:
            solver.set_termination_callback(_polled(self._options.interrupted, held))
        found = solver.solve()
        if held:
            raise held[0]
        return self._judged(program, found)

    def _judged(self, program: _Standard, found: Any) -> Claim:
        """A claim of what Clarabel says; any multipliers are kept."""
        ended = str(found.status)
        status = _STATUS.get(ended, Status.FAILED)
        claim = self._multiplied(
            Claim(status, detail=f"Clarabel: {ended}"), program, np.asarray(found.z)
        )
        if status is Status.INFEASIBLE:
            return replace(claim, bound=math.inf)
        point = self._point.copy()
        point[~self._fixed] = np.asarray(found.x)
        if status is not Status.OPTIMAL or not np.isfinite(point).all():
            failed = Status.FAILED if status is Status.OPTIMAL else status
            return replace(claim, status=failed, reduced_costs=None)
        value, bound = self._model.objective(point), float(found.obj_val_dual) + self._spent
        scale = 1 + abs(value)
        if not abs(value - bound) <= QP_ROW_SLACK * scale:
            return replace(claim, status=Status.FAILED, detail=f"{claim.detail}, with a gap")
        if not self._model.violation(point) <= QP_ROW_SLACK:
            detail = f"{claim.detail}, but its point violates rows or cones"
            return replace(claim, status=Status.FAILED, detail=detail)
        claim = self._reduced(claim, point)
        return replace(claim, objective=value, bound=min(bound, value), point=point)

    def _multiplied(self, claim: Claim, program: _Standard, z: Array) -> Claim:
        """With the multipliers of rows and cones, where they are finite."""
        if not np.isfinite(z).all():
            return claim
        duals = np.zeros(len(self._model.quadratic.row_lower))
        count = len(program.rows)
        np.add.at(duals, program.rows, -program.signs * z[:count])
        return replace(
            claim, row_duals=duals, cone_duals=z[program.equations + program.inequalities :]
        )

    def _reduced(self, claim: Claim, point: Array) -> Claim:
        if claim.row_duals is None or claim.cone_duals is None:
            return claim
        base = self._model.quadratic
        pushed = base.matrix.T @ claim.row_duals + self._model.cones.T @ claim.cone_duals
        return replace(claim, reduced_costs=base.curvature * point + base.cost - pushed)

    def _without_columns(self) -> Claim:
        """Of a program whose columns are all fixed."""
        if self._model.violation(self._point) > QP_ROW_SLACK:
            return Claim(Status.INFEASIBLE, bound=math.inf, detail="no column is free")
        base = self._model.quadratic
        return Claim(
            Status.OPTIMAL, self._spent, self._spent, self._point,
            np.zeros(len(base.row_lower)), base.curvature * self._point + base.cost,
            np.zeros(len(self._model.offsets)), detail="no column is free",
        )  # fmt: skip


def _touching(lower: Array, upper: Array) -> NDArray[np.bool_]:
    """Where there is no room between two sides."""
    finite = np.isfinite(lower) & np.isfinite(upper)
    width = np.where(finite, upper, np.inf) - np.where(finite, lower, 0.0)
    return np.asarray(width <= QP_TOLERANCE * (1 + np.abs(np.where(finite, lower, 0.0))))


def _middle(lower: Array, upper: Array) -> Array:
    touching = _touching(lower, upper)
    low, high = np.where(touching, lower, 0.0), np.where(touching, upper, 0.0)
    return np.asarray(np.where(low == high, low, low + (high - low) / 2))


def _standard(model: ConicModel, free: NDArray[np.bool_], point: Array) -> _Standard:
    """A model's rows, sides of its box and cones, over its free columns."""
    base = model.quadratic
    moved = base.matrix @ point
    low, high = base.row_lower - moved, base.row_upper - moved
    equal = _touching(base.row_lower, base.row_upper)
    equations = np.flatnonzero(equal)
    below = np.flatnonzero(~equal & np.isfinite(low))
    above = np.flatnonzero(~equal & np.isfinite(high))
    rows = csr_array(base.matrix[:, free])
    one = csr_array(diags_array(np.ones(int(free.sum()))))
    least, most = base.lower[free], base.upper[free]
    ends = np.flatnonzero(np.isfinite(least)), np.flatnonzero(np.isfinite(most))
    parts = [
        rows[equations], -rows[below], rows[above], -one[ends[0]], one[ends[1]],
        -csr_array(model.cones[:, free]),
    ]  # fmt: skip
    middle = _middle(base.row_lower, base.row_upper)[equations] - moved[equations]
    right = [
        middle, -low[below], high[above], -least[ends[0]], most[ends[1]],
        model.offsets + model.cones @ point,
    ]  # fmt: skip
    signs = np.repeat([1.0, -1.0, 1.0], [len(equations), len(below), len(above)])
    return _Standard(
        csc_array(vstack(parts, format="csc")),
        np.concatenate(right),
        len(equations),
        len(below) + len(above) + len(ends[0]) + len(ends[1]),
        np.concatenate([equations, below, above]),
        signs,
    )


def _settings(clarabel: ModuleType, options: SolveOptions) -> Any:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.time_limit = options.time_limit
    settings.max_threads = options.threads
    for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas"):
        setattr(settings, name, QP_TOLERANCE)
    return settings


def _polled(interrupted: Callable[[], bool], held: list[BaseException]) -> Callable[[object], bool]:
    """Asked after every iteration; what `interrupted` raises is kept, for Clarabel swallows it."""

    def asked(_info: object) -> bool:
        try:
            return bool(interrupted())
        except BaseException as error:
            held.append(error)
            return True

    return asked


def _clarabel() -> ModuleType:
    try:
        import clarabel  # optional, and native: only where something is solved
    except ImportError as error:
        raise MissingDependencyError(
            f"clarabel cannot be imported ({error}); pip install closegap[conic]"
        ) from None
    return clarabel  # type: ignore[no-any-return]
