"""The solver-neutral model: arrays in, claims out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.core.errors import OptionError
from closegap.core.numerics import MIP_FEASIBILITY

__all__ = [
    "POLL_SECONDS",
    "SEEDS",
    "Capabilities",
    "Claim",
    "Cone",
    "Emphasis",
    "Incumbent",
    "LinearSession",
    "MipBackend",
    "Model",
    "SolveOptions",
    "Status",
]

Array: TypeAlias = NDArray[np.float64]

#: How often a running solve asks whether to stop.
POLL_SECONDS = 0.05

#: From here on solvers take numbers for infinite.
_TOO_LARGE = 1e20

#: Solvers know so many seeds; larger numbers begin again at 0.
SEEDS = 2**31


@dataclass(frozen=True, eq=False)
class Cone:
    """`||v[columns]||_2 <= v[bound]`.

    Attributes:
        columns: `[N]`.
        bound: one column, whose lower bound is not negative.
    """

    columns: NDArray[np.int64]
    bound: int

    def excess(self, point: Array) -> float:
        """By how much a point `[V]` violates it; not positive where it does not."""
        return float(np.linalg.norm(point[self.columns]) - point[self.bound])


@dataclass(frozen=True, eq=False)
class Model:
    """`min cost . v + constant  s.t.  row_lower <= matrix v <= row_upper, lower <= v <= upper`.

    Attributes:
        cost: `[V]`, finite.
        matrix: `[R, V]`, CSR; entries finite.
        row_lower: `[R]`, -infinity for none.
        row_upper: `[R]`, +infinity for none; equal to `row_lower` for an equation.
        lower: `[V]`, -infinity for none.
        upper: `[V]`, +infinity for none.
        integer: bool `[V]`; all False is a linear program.
        constant: added to every objective and bound.
        cones: second-order cones; most backends know none, and fail (see `Capabilities.cones`).

    Raises:
        ValueError: an array's length does not fit the matrix.
    """

    cost: Array
    matrix: csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array
    integer: NDArray[np.bool_]
    constant: float = 0.0
    cones: tuple[Cone, ...] = ()

    def __post_init__(self) -> None:
        rows, columns = self.matrix.shape
        wanted = {"cost": columns, "lower": columns, "upper": columns, "integer": columns}
        wanted |= {"row_lower": rows, "row_upper": rows}
        for name, length in wanted.items():
            shape = getattr(self, name).shape
            if shape != (length,):
                raise ValueError(f"Model.{name} has shape {shape}, the matrix wants ({length},)")

    def flaw(self) -> str:
        """Why no solver may be given this model, or an empty string.

        HiGHS crashes on a NaN cost, so every backend asks this first.
        """
        if not (np.isfinite(self.cost).all() and np.isfinite(self.constant)):
            return "the model has a NaN or an infinite cost"
        if not np.isfinite(self.matrix.data).all():
            return "the model has a NaN or an infinite coefficient"
        largest = max(np.abs(a).max(initial=0.0) for a in (self.cost, self.matrix.data))
        if largest >= _TOO_LARGE:
            return (
                f"the model has a coefficient of {largest:.0e}, "
                f"and solvers take {_TOO_LARGE:.0e} for infinite"
            )
        for name in ("lower", "upper", "row_lower", "row_upper"):
            if np.isnan(getattr(self, name)).any():
                return f"the model has a NaN in {name}"
        return ""

    def without_solver(self, options: SolveOptions) -> Claim | None:
        """The claim where no solver need be asked, or may be: no time, a flaw, crossing sides."""
        if options.time_limit <= 0.0:
            return Claim(Status.TIME, detail="no time was left")
        flaw = self.flaw()
        if flaw:
            return Claim(Status.FAILED, detail=flaw)
        if (self.lower > self.upper).any() or (self.row_lower > self.row_upper).any():
            return Claim(Status.INFEASIBLE, bound=math.inf, detail="crossing bounds")
        return None

    def objective(self, point: Array) -> float:
        """The objective at a point `[V]`, constant included."""
        return float(self.cost @ point) + self.constant

    def violation(self, point: Array) -> float:
        """The largest violation of a bound, a row side or integrality at a point `[V]`; 0 if none.

        Absolute, not relative to any scale; float64 rounding in `matrix @ point` is in it.
        """
        rows = self.matrix @ point
        gaps = (
            self.lower - point,
            point - self.upper,
            self.row_lower - rows,
            rows - self.row_upper,
            np.abs(point - np.rint(point))[self.integer],
            np.array([cone.excess(point) for cone in self.cones]),
        )
        return max(float(gap.max(initial=0.0)) for gap in gaps)

    @property
    def rows(self) -> int:
        """Number of rows (R)."""
        return len(self.row_lower)

    @property
    def columns(self) -> int:
        """Number of variables (V)."""
        return len(self.cost)

    @property
    def is_linear(self) -> bool:
        """True iff no variable is integer, and there is no cone."""
        return not (self.integer.any() or self.cones)


class Status(StrEnum):
    """Why the solver stopped, in its own belief."""

    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    UNBOUNDED = "unbounded"
    TIME = "time limit"
    NODES = "node limit"
    INCUMBENT_REACHED = "incumbent target reached"
    BOUND_REACHED = "bound target reached"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


Emphasis: TypeAlias = Literal["light", "default"]
#: Called with `(point, objective)`.
Incumbent: TypeAlias = Callable[[Array, float], None]


@dataclass(frozen=True, eq=False)
class SolveOptions:
    """What to ask of one solve.

    Attributes:
        time_limit: seconds; a killable backend keeps it within half a second.
        node_limit: branch-and-bound nodes, or `None`.
        threads: native threads.
        seed: of the solver's random choices.
        start: a full point `[V]` to start from (need not be feasible), or `None`.
        stop_at_incumbent: stop once a feasible point has an objective at or below this; for
            mixed-integer programs only.
        stop_at_bound: stop once the dual bound is at or above this. A linear program may stop by
            it (`BOUND_REACHED`) or go on to its optimum.
        gap: a mixed-integer program may stop as `OPTIMAL` once point and bound are as near as this
            share of the objective.
        on_incumbent: called with `(point, objective)` for every better feasible point, while the
            solver runs, in the caller's process and thread. What it raises stops the solver and
            is raised again by `solve`.
        on_bound: called with the dual bound when it has risen, at most every `POLL_SECONDS`; same
            process and thread, same rule for what it raises.
        interrupted: polled at least every 0.2 s, perhaps on another thread; True stops the solver.
        emphasis: `"light"` few cuts and little presolve (measured best on network subproblems),
            `"default"` the solver's own settings. HiGHS has one setting for both.
        feasibility: tolerance asked of the solver for rows, bounds, integrality and reduced costs.
        scaled: the simplex may scale rows and columns; programs of one scale take fewer steps
            without.

    Raises:
        OptionError: a time limit that is NaN, no thread, or an unknown emphasis.
    """

    time_limit: float = math.inf
    node_limit: int | None = None
    threads: int = 1
    seed: int = 0
    start: Array | None = None
    stop_at_incumbent: float | None = None
    stop_at_bound: float | None = None
    gap: float = 0.0
    on_incumbent: Incumbent | None = None
    on_bound: Callable[[float], None] | None = None
    interrupted: Callable[[], bool] | None = None
    emphasis: Emphasis = "light"
    feasibility: float = MIP_FEASIBILITY
    scaled: bool = True

    def __post_init__(self) -> None:
        if math.isnan(self.time_limit):
            raise OptionError("time_limit is NaN; give seconds, or infinity for none")
        if self.threads < 1:
            raise OptionError(f"threads is {self.threads}; a solver needs at least 1")
        if self.emphasis not in get_args(Emphasis):
            raise OptionError(f"emphasis is {self.emphasis!r}; use one of {get_args(Emphasis)}")


@dataclass(frozen=True, eq=False)
class Claim:
    """What a solver says. Nothing here is trusted before it was checked.

    Attributes:
        status: why it stopped.
        objective: of `point`, constant included; infinity without a point.
        bound: proved (in the solver's arithmetic) lower bound of the optimum, constant included;
            -infinity when it has none; +infinity when it claims infeasibility.
        point: the best feasible point `[V]`, or `None`.
        row_duals: for linear programs `[R]`, sign: `cost - matrix.T @ row_duals = reduced_costs`;
            positive where a row's lower side is active, negative where its upper side is. Of an
            infeasible linear program: a Farkas ray with the same signs (its bound with cost zero
            is positive, see `certify`), or `None` when the solver found infeasibility without one.
            May be there after a stop by time: any vector gives a bound through `certify`.
        reduced_costs: for linear programs `[V]`, at their optimum; positive where the lower bound
            is active.
        cone_duals: of a program with cones and without integers, for each cone the multiplier of
            its bound and those of its columns, one after the other: with them
            `cost - matrix.T @ row_duals - (what they push) = reduced_costs`.
        seconds: wall-clock time inside the solver.
        nodes: branch-and-bound nodes.
        detail: the solver's own words, for reports.
    """

    status: Status
    objective: float = math.inf
    bound: float = -math.inf
    point: Array | None = None
    row_duals: Array | None = None
    reduced_costs: Array | None = None
    cone_duals: Array | None = None
    seconds: float = 0.0
    nodes: int = 0
    detail: str = ""


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, as class data; asking never imports the solver."""

    linear: bool
    integer: bool
    warm_start: bool
    duals: bool
    streams_incumbents: bool
    killable: bool
    cones: bool = False
    notes: tuple[str, ...] = field(default=())


@runtime_checkable
class LinearSession(Protocol):
    """A linear program held in a solver, re-solved after changes with a warm basis.

    Costs and bounds are changed in place; rows can be appended (lazy rows) but not removed.
    One session is used by one thread at a time.
    """

    def model(self) -> Model:
        """The program as it stands, with every change made so far; a copy."""

    def set_costs(self, cost: Array, constant: float = 0.0) -> None:
        """Replace the objective."""

    def set_column_bounds(self, columns: NDArray[np.int64], lower: Array, upper: Array) -> None:
        """Replace the bounds of some columns."""

    def set_row_bounds(self, rows: NDArray[np.int64], lower: Array, upper: Array) -> None:
        """Replace the sides of some rows."""

    def add_rows(self, matrix: csr_array, row_lower: Array, row_upper: Array) -> None:
        """Append rows."""

    def basis(self) -> object:
        """The last basis, for `set_basis` of a session with equally many rows and columns."""

    def set_basis(self, basis: object) -> None:
        """Start the next solve from a basis that a session of the same backend gave."""

    def solve(self, options: SolveOptions) -> Claim:
        """Solve from the last basis. `options.start` is not used."""


@runtime_checkable
class MipBackend(Protocol):
    """One solver."""

    name: str
    capabilities: Capabilities

    def installed(self) -> bool:
        """True iff the solver can be imported; does not import it."""

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        """Solve once. Never raises for infeasible, unbounded or time; `FAILED` says why."""

    def session(self, model: Model) -> LinearSession:
        """Hold a linear program for repeated solves.

        Raises:
            OptionError: the model has integers, or the backend holds no linear programs.
        """
