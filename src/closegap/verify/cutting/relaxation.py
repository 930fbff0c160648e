"""One clause's program in a solver: cuts are added, idle ones dropped, bounds certified."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from closegap.core.budget import Budget
from closegap.core.numerics import CUT_VIOLATION
from closegap.mip.certify import certified_lower_bound, certifies_infeasibility
from closegap.mip.model import Claim, LinearSession, Model, SolveOptions, Status
from closegap.mip.registry import choose
from closegap.verify.cutting.anderson import AndersonCuts, Cuts
from closegap.verify.cutting.program import CutProgram, Rows
from closegap.verify.cutting.rows import phaseless_rows

__all__ = ["CutOptions", "Fixings", "Relaxation", "Solved"]

#: Rounds after which a cut that carried no dual is dropped.
_IDLE = 12


@dataclass(frozen=True)
class CutOptions:
    """How to cut.

    Attributes:
        rounds: of cuts on the root.
        stall: rounds end when the last few gained less than this share of what is missing.
        window: how many rounds "the last few" are.
        seconds: most time for one linear program.
    """

    rounds: int = 40
    stall: float = 0.02
    window: int = 4
    seconds: float = 20.0


@dataclass(frozen=True, eq=False)
class Fixings:
    """Phases that are fixed: `units [F]`, `on [F]`."""

    units: Int[np.ndarray, "F"]
    on: Bool[np.ndarray, "F"]

    @classmethod
    def none(cls) -> Fixings:
        """Nothing is fixed."""
        return cls(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool))

    def also(self, unit: int, on: bool) -> Fixings:
        """One more."""
        return Fixings(np.append(self.units, unit), np.append(self.on, on))


@dataclass(frozen=True, eq=False)
class Solved:
    """One linear program.

    Attributes:
        lower: certified lower bound of the margin under the fixings; infinity where the program
            is certified to have no point.
        point: its solution `[V]`, or `None`.
        duals: `[R]`, or `None`.
    """

    lower: float
    point: Float[np.ndarray, "V"] | None
    duals: Float[np.ndarray, "R"] | None


class Relaxation:
    """One clause's program with the cuts found so far.

    Args:
        program: without cuts.
    """

    def __init__(self, program: CutProgram) -> None:
        self.program = program
        self._separator = AndersonCuts(program)
        self._base = program.model
        self._matrix = program.model.matrix
        self._upper = np.zeros(0)
        self._owner = np.zeros(0, dtype=np.int64)
        self._idle = np.zeros(0, dtype=np.int64)
        self._fixed = Fixings.none()
        self._session = self._open()
        self.solves = 0

    @property
    def cuts(self) -> int:
        """Cuts in the program now."""
        return len(self._upper)

    @property
    def fixed_phases(self) -> Bool[np.ndarray, "U"]:
        """Phases that are the same in every program."""
        phase = self.program.layout.phase
        return np.asarray(self._base.lower[phase] == self._base.upper[phase])

    def basis(self) -> object:
        """Where the last solve ended; good until cuts are added or dropped."""
        return self._session.basis()

    def solve(
        self,
        fixings: Fixings,
        budget: Budget,
        seconds: float = math.inf,
        start: object | None = None,
    ) -> Solved:
        """The program under fixed phases; starts from `start`, or from the last basis."""
        self._fix(fixings)
        if start is not None:
            self._session.set_basis(start)
        limit = min(seconds, budget.remaining)
        options = SolveOptions(time_limit=limit, threads=budget.threads, scaled=False)
        claim = self._session.solve(options)
        self.solves += 1
        return self._judged(claim)

    def cut(self, point: Float[np.ndarray, "V"], most: int = 1000) -> int:
        """Add the cuts that a solution violates most; returns how many."""
        return self.add(self._separator.separate(point, CUT_VIOLATION, most))

    def add(self, cuts: Cuts) -> int:
        """Add cuts of this program; returns how many."""
        count = len(cuts.upper)
        if count:
            self._session.add_rows(cuts.matrix, np.full(count, -np.inf), cuts.upper)
            self._matrix = csr_array(vstack([self._matrix, cuts.matrix], format="csr"))
            self._upper = np.concatenate([self._upper, cuts.upper])
            self._owner = np.concatenate([self._owner, cuts.owner])
            self._idle = np.concatenate([self._idle, np.zeros(count, dtype=np.int64)])
        return count

    def drop_idle(self, rounds: int = _IDLE) -> None:
        """Forget cuts that carried no dual in so many solves; the basis is lost with them."""
        keep = self._idle < rounds
        if keep.all():
            return
        rows = np.concatenate([np.ones(self._base.rows, dtype=bool), keep])
        self._matrix = csr_array(self._matrix[rows])
        self._upper, self._owner = self._upper[keep], self._owner[keep]
        self._idle = self._idle[keep]
        self._session = self._open()
        fixed, self._fixed = self._fixed, Fixings.none()
        self._fix(fixed)

    def rows(self, solved: Solved) -> Rows | None:
        """What the duals of the last solve say of each ReLU (`phaseless_rows`)."""
        if solved.duals is None or not math.isfinite(solved.lower):
            return None
        base = self.program.model.rows
        count = len(solved.duals) - base  # cuts that came after it carry no dual
        cuts = csr_array(self._matrix[base : base + count])
        owner, upper = self._owner[:count], self._upper[:count]
        return phaseless_rows(self.program, cuts, upper, owner, solved.duals)

    def implied(self, solved: Solved) -> Fixings:
        """Phases whose opposite the same duals prove to have a positive margin.

        They hold at every point whose margin is not positive, and nowhere else need they.
        """
        if solved.duals is None or not math.isfinite(solved.lower):
            return Fixings.none()
        layout = self.program.layout
        model = self._current()
        reduced = (model.cost - model.matrix.T @ solved.duals)[layout.phase]
        free = model.lower[layout.phase] < model.upper[layout.phase]
        likely = np.flatnonzero(free & (np.abs(reduced) > -solved.lower))
        units, on = [], []
        for unit in likely:
            forced_on = bool(reduced[unit] < 0)
            if self._bound(solved.duals, int(unit), not forced_on) > 0:
                units.append(int(unit))
                on.append(forced_on)
        return Fixings(np.array(units, dtype=np.int64), np.array(on, dtype=bool))

    def _bound(self, duals: NDArray[np.float64], unit: int, on: bool) -> float:
        """What the duals prove once one more phase is fixed."""
        model = self._current()
        lower, upper = model.lower.copy(), model.upper.copy()
        _narrow(self.program, lower, upper, np.array([unit]), np.array([on]))
        return certified_lower_bound(replace(model, lower=lower, upper=upper), duals)

    def restrict(self, fixings: Fixings) -> None:
        """Fix phases in every later program."""
        lower, upper = self._base.lower.copy(), self._base.upper.copy()
        _narrow(self.program, lower, upper, fixings.units, fixings.on)
        self._base = replace(self._base, lower=lower, upper=upper)
        self._session = self._open()
        self._fixed = Fixings.none()

    def _open(self) -> LinearSession:
        solver, _ = choose("lp")
        return solver.session(self._model(self._base.lower, self._base.upper))

    def _model(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> Model:
        cuts = len(self._upper)
        return replace(
            self._base,
            matrix=self._matrix,
            row_lower=np.concatenate([self._base.row_lower, np.full(cuts, -np.inf)]),
            row_upper=np.concatenate([self._base.row_upper, self._upper]),
            lower=lower.copy(),
            upper=upper.copy(),
        )

    def _current(self) -> Model:
        lower, upper = self._base.lower.copy(), self._base.upper.copy()
        _narrow(self.program, lower, upper, self._fixed.units, self._fixed.on)
        return self._model(lower, upper)

    def _fix(self, fixings: Fixings) -> None:
        """Change the bounds of the columns of units that are, or were, fixed."""
        lower, upper = self._base.lower.copy(), self._base.upper.copy()
        _narrow(self.program, lower, upper, fixings.units, fixings.on)
        layout = self.program.layout
        units = np.union1d(fixings.units, self._fixed.units)
        starts = (layout.positive.start, layout.negative.start, layout.phase.start)
        columns = np.concatenate([start + units for start in starts])
        self._fixed = fixings
        if len(columns):
            self._session.set_column_bounds(columns, lower[columns], upper[columns])

    def _judged(self, claim: Claim) -> Solved:
        duals = claim.row_duals
        if duals is None:
            return Solved(-math.inf, None, None)
        model = self._current()
        if claim.status is Status.INFEASIBLE:
            empty = certifies_infeasibility(model, duals)
            return Solved(math.inf if empty else -math.inf, None, None)
        carried = duals[self._base.rows :] != 0.0
        self._idle = np.where(carried, 0, self._idle + 1)
        return Solved(certified_lower_bound(model, duals), claim.point, duals)


def _narrow(
    program: CutProgram,
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    units: NDArray[np.int64],
    on: NDArray[np.bool_],
) -> None:
    """Column bounds under fixed phases, in place."""
    layout = program.layout
    lower[layout.phase.start + units[on]] = 1.0
    upper[layout.negative.start + units[on]] = 0.0
    upper[layout.phase.start + units[~on]] = 0.0
    upper[layout.positive.start + units[~on]] = 0.0
