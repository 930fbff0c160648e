"""What every LP/MIP backend must keep: subclass `MipBackendCase`, say which backend, run pytest.

A test module of a backend reads

    class TestMine(MipBackendCase):
        def backend(self) -> MipBackend:
            return backend("mine")

Truth comes from scipy's own solver, from enumeration, and from duality. Tests that a backend's
capabilities exclude are skipped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from closegap.core.errors import OptionError
from closegap.mip.certify import certified_lower_bound, certifies_infeasibility
from closegap.mip.model import Array, Claim, LinearSession, MipBackend, Model, SolveOptions, Status
from closegap.testing.mip_models import (
    enumerated_optimum,
    hard_integer,
    infeasible,
    linprog_optimum,
    random_binary,
    random_linear,
    relaxed,
    small_model,
)
from closegap.testing.mip_probes import (
    Stream,
    check_point,
    good_point,
    session_changes,
    signal_workers,
)

__all__ = ["MipBackendCase"]

#: How far optima of programs with numbers of order one may lie apart.
_CLOSE = 1e-7
#: How far beyond its limit a solve may run.
_OVERRUN = 0.5


class MipBackendCase:
    """The suite."""

    def backend(self) -> MipBackend:
        """The backend; the same object in every test if it keeps processes."""
        raise NotImplementedError

    # Linear programs

    def test_linear_optimum_is_scipys(self, rng: np.random.Generator) -> None:
        """Optimum, point, objective and bound agree with another solver."""
        for _ in range(5):
            model = random_linear(rng, rows=12, columns=20)
            claim = self.backend().solve(model, SolveOptions())
            assert claim.status is Status.OPTIMAL
            assert claim.objective == pytest.approx(linprog_optimum(model), abs=_CLOSE)
            assert claim.bound == pytest.approx(claim.objective, abs=_CLOSE)
            check_point(model, claim)

    def test_duals_are_signed_and_strong(self, rng: np.random.Generator) -> None:
        """The documented sign; complementary slackness; the certified bound meets the optimum."""
        self._needs_duals()
        for _ in range(5):
            model = random_linear(rng, rows=12, columns=20)
            claim = self.backend().solve(model, SolveOptions())
            duals, reduced = claim.row_duals, claim.reduced_costs
            assert duals is not None
            assert reduced is not None
            assert claim.point is not None
            assert np.allclose(model.cost - model.matrix.T @ duals, reduced, atol=_CLOSE)
            rows = model.matrix @ claim.point
            assert (duals[rows > model.row_lower + _CLOSE] <= _CLOSE).all()
            assert (duals[rows < model.row_upper - _CLOSE] >= -_CLOSE).all()
            assert (reduced[claim.point > model.lower + _CLOSE] <= _CLOSE).all()
            assert (reduced[claim.point < model.upper - _CLOSE] >= -_CLOSE).all()
            bound = certified_lower_bound(model, duals)
            assert bound == pytest.approx(linprog_optimum(model), abs=_CLOSE)

    def testinfeasible(self, rng: np.random.Generator) -> None:
        """Status, infinite bound, no point; a Farkas ray, where there is one, certifies it."""
        for integer in (False, True):
            model = infeasible(rng, integer=integer)
            claim = self.backend().solve(model, SolveOptions(time_limit=10.0))
            assert claim.status is Status.INFEASIBLE
            assert claim.bound == math.inf
            assert claim.objective == math.inf
            assert claim.point is None
            if claim.row_duals is not None:
                assert certifies_infeasibility(model, claim.row_duals)

    def test_crossing_bounds_areinfeasible(self, rng: np.random.Generator) -> None:
        """A column, or a row, whose lower side is above its upper one."""
        model = random_binary(rng, rows=3, binaries=3, reals=2)
        column = replace(model, lower=np.array([0.0, 0.0, 0.0, 0.5, 0.0]), upper=np.full(5, 0.25))
        row = replace(model, row_lower=np.ones(3), row_upper=np.zeros(3))
        for crossed in (column, row, relaxed(column), relaxed(row)):
            claim = self.backend().solve(crossed, SolveOptions(time_limit=10.0))
            assert claim.status is Status.INFEASIBLE
            assert claim.bound == math.inf

    def test_unbounded(self) -> None:
        """Linear and integer: status, no bound."""
        for integer in (False, True):
            model = small_model([[1.0, -1.0]], [-1.0, 0.0], rows=(0.0, math.inf), integer=integer)
            model = replace(model, upper=np.full(2, math.inf))
            claim = self.backend().solve(model, SolveOptions(time_limit=10.0))
            assert claim.status is Status.UNBOUNDED
            assert claim.bound == -math.inf

    def test_free_variables_equations_and_constant(self) -> None:
        """`min 3 - x - 2 y` over `x + y = 1`, `x - y >= -3`, both free: at x = -1, y = 2."""
        model = Model(
            cost=np.array([-1.0, -2.0]),
            matrix=csr_array(np.array([[1.0, 1.0], [1.0, -1.0]])),
            row_lower=np.array([1.0, -3.0]),
            row_upper=np.array([1.0, math.inf]),
            lower=np.full(2, -math.inf),
            upper=np.full(2, math.inf),
            integer=np.zeros(2, dtype=np.bool_),
            constant=3.0,
        )
        for kind in (model, replace(model, integer=np.array([True, False]))):
            claim = self.backend().solve(kind, SolveOptions(time_limit=10.0))
            assert claim.status is Status.OPTIMAL
            assert claim.point == pytest.approx(np.array([-1.0, 2.0]), abs=_CLOSE)
            assert claim.objective == pytest.approx(0.0, abs=_CLOSE)

    def test_empty_rows_and_columns(self) -> None:
        """A column in no row, a row with no column, no rows at all, no columns at all."""
        model = small_model([[1.0, 0.0], [0.0, 0.0]], [1.0, -2.0], rows=(-1.0, 1.0))
        for kind in (model, replace(model, integer=np.array([True, True]))):
            claim = self.backend().solve(kind, SolveOptions(time_limit=10.0))
            assert claim.objective == pytest.approx(-2.0, abs=_CLOSE)
            broken = replace(kind, row_lower=np.array([-1.0, 0.5]))
            claim = self.backend().solve(broken, SolveOptions(time_limit=10.0))
            assert claim.status is Status.INFEASIBLE
        rowless = small_model(np.zeros((0, 2)), [1.0, -2.0], rows=(0.0, 0.0))
        claim = self.backend().solve(rowless, SolveOptions())
        assert claim.objective == pytest.approx(-2.0, abs=_CLOSE)
        nothing = replace(small_model(np.zeros((1, 0)), [], rows=(-1.0, 1.0)), constant=4.0)
        assert self.backend().solve(nothing, SolveOptions()).objective == pytest.approx(4.0)
        broken = replace(nothing, row_lower=np.array([0.5]))
        assert self.backend().solve(broken, SolveOptions()).status is Status.INFEASIBLE

    @pytest.mark.parametrize("tiny", [1e-9, 1e-10, 1e-11])
    def test_tiny_coefficients_count(self, tiny: float) -> None:
        """`tiny x + y >= 1` with `tiny x <= 1/4`: dropping the coefficient would give 1."""
        model = small_model([[tiny, 1.0]], [0.0, 1.0], rows=(1.0, math.inf))
        model = replace(model, upper=np.array([0.25 / tiny, 10.0]))
        claim = self.backend().solve(model, SolveOptions())
        assert claim.objective == pytest.approx(0.75, abs=_CLOSE)

    def test_nan_is_refused(self, rng: np.random.Generator) -> None:
        """A failed claim that says so; no crash, no optimum."""
        model = random_binary(rng, rows=3, binaries=3, reals=2)
        bad = replace(model, cost=np.full(5, math.nan)), replace(model, upper=np.full(5, math.nan))
        for broken in (*bad, *map(relaxed, bad)):
            claim = self.backend().solve(broken, SolveOptions(time_limit=10.0))
            assert claim.status is Status.FAILED
            assert "NaN" in claim.detail

    # Sessions

    def test_warm_session_equals_cold_solve(self, rng: np.random.Generator) -> None:
        """After changes of costs, column bounds, row sides and rows, one by one and together."""
        session = self._session(random_linear(rng, rows=12, columns=20))
        for change in session_changes(rng) * 2:
            change(session)
            model = session.model()
            claim = session.solve(SolveOptions())
            assert claim.status is Status.OPTIMAL
            assert claim.objective == pytest.approx(linprog_optimum(model), abs=_CLOSE)
            assert claim.row_duals is not None
            bound = certified_lower_bound(model, claim.row_duals)
            assert bound == pytest.approx(claim.objective, abs=_CLOSE)
            check_point(model, claim)

    def test_session_recovers_from_infeasibility(self, rng: np.random.Generator) -> None:
        """Infeasible by a bound change, feasible again after taking it back; basis carried over."""
        model = random_linear(rng, rows=8, columns=10)
        session = self._session(model)
        first = session.solve(SolveOptions()).objective
        basis = session.basis()
        session.set_row_bounds(np.array([2]), np.array([1e3]), np.array([math.inf]))
        assert session.solve(SolveOptions()).status is Status.INFEASIBLE
        session.set_row_bounds(np.array([2]), model.row_lower[2:3], model.row_upper[2:3])
        session.set_basis(basis)
        assert session.solve(SolveOptions()).objective == pytest.approx(first, abs=_CLOSE)
        assert session.solve(SolveOptions(time_limit=0.0)).status is Status.TIME

    def test_session_refuses_integers(self, rng: np.random.Generator) -> None:
        """An error, not a relaxation."""
        with pytest.raises(OptionError):
            self.backend().session(random_binary(rng, rows=2, binaries=2, reals=1))

    # Integer programs

    def test_integer_optimum_is_the_enumerated_one(self, rng: np.random.Generator) -> None:
        """Against a linear program for each choice of the binaries."""
        for emphasis in ("light", "default"):
            model = random_binary(rng, rows=5, binaries=6, reals=6)
            options = SolveOptions(time_limit=20.0, emphasis=emphasis)
            claim = self.backend().solve(model, options)
            assert claim.status is Status.OPTIMAL
            assert claim.objective == pytest.approx(enumerated_optimum(model), abs=_CLOSE)
            assert claim.bound == pytest.approx(claim.objective, abs=_CLOSE)
            check_point(model, claim)
            near = self.backend().solve(model, replace(options, gap=0.5))
            assert near.bound - _CLOSE <= claim.objective <= near.objective + _CLOSE
            assert near.objective - near.bound <= 0.5 * abs(near.objective) + _CLOSE

    def test_general_integers(self) -> None:
        """`max 5 x + 4 y`, `6 x + 4 y <= 24`, `x + 2 y <= 6`, integers in [0, 10]: 20 at (4, 0)."""
        model = small_model([[6.0, 4.0], [1.0, 2.0]], [-5.0, -4.0], rows=(-math.inf, 0.0))
        model = replace(model, row_upper=np.array([24.0, 6.0]), upper=np.full(2, 10.0))
        claim = self.backend().solve(replace(model, integer=np.ones(2, bool)), SolveOptions())
        assert claim.objective == pytest.approx(-20.0, abs=_CLOSE)
        assert claim.point == pytest.approx(np.array([4.0, 0.0]), abs=_CLOSE)

    def test_start_is_used(self, rng: np.random.Generator) -> None:
        """The first point streamed is no worse than the start, or than its integers completed."""
        model = hard_integer(rng)
        start, objective = good_point(model, rng)
        reals = np.where(model.integer, start, 0.0)
        for given in (start, reals):
            seen = Stream(model)
            options = SolveOptions(
                time_limit=5.0, node_limit=1, start=given, on_incumbent=seen.on_incumbent
            )
            claim = self.backend().solve(model, options)
            assert seen.objectives[0] <= objective + _CLOSE
            assert claim.objective <= objective + _CLOSE

    def test_incumbents_are_streamed(self, rng: np.random.Generator) -> None:
        """In the caller's thread, strictly better each time, feasible, the last one the claim's."""
        model = hard_integer(rng)
        seen = Stream(model)
        options = SolveOptions(
            time_limit=1.5, on_incumbent=seen.on_incumbent, on_bound=seen.bounds.append
        )
        claim = self.backend().solve(model, options)
        assert len(seen.objectives) >= 2
        assert seen.objectives == sorted(set(seen.objectives), reverse=True)
        assert max(seen.violations) <= 1e3 * options.feasibility
        assert seen.threads == {threading.get_ident()}
        assert claim.objective == pytest.approx(seen.objectives[-1])
        assert seen.bounds == sorted(seen.bounds)
        assert max(seen.bounds) <= claim.bound + _CLOSE
        check_point(model, claim)

    def test_what_a_callback_raises_is_raised(self, rng: np.random.Generator) -> None:
        """And the backend still works afterwards."""

        def broken(point: Array, objective: float) -> None:
            raise ZeroDivisionError

        model = hard_integer(rng)
        with pytest.raises(ZeroDivisionError):
            self.backend().solve(model, SolveOptions(time_limit=5.0, on_incumbent=broken))
        claim = self.backend().solve(relaxed(model), SolveOptions(time_limit=5.0))
        assert claim.objective == pytest.approx(0.25, abs=_CLOSE)

    def test_stops_at_incumbent(self, rng: np.random.Generator) -> None:
        """Long before the limit, with a point that reaches the target."""
        model = hard_integer(rng)
        options = SolveOptions(time_limit=20.0, stop_at_incumbent=60.0)
        claim, seconds = self._timed(model, options)
        assert claim.status is Status.INCUMBENT_REACHED
        assert claim.objective <= 60.0
        assert seconds < 10.0
        check_point(model, claim)

    def test_stops_at_bound(self, rng: np.random.Generator) -> None:
        """Long before the limit, with the bound at or above the target, constant included."""
        options = SolveOptions(time_limit=20.0, stop_at_bound=0.2)
        claim, seconds = self._timed(hard_integer(rng), options)
        assert claim.status is Status.BOUND_REACHED
        assert 0.2 <= claim.bound <= 0.25 + _CLOSE
        assert seconds < 10.0

    # Control

    def test_interruption_within_half_a_second(self, rng: np.random.Generator) -> None:
        """What was found stays in the claim."""
        self._timed(hard_integer(rng), SolveOptions(time_limit=0.5))
        begun = time.monotonic()
        options = SolveOptions(interrupted=lambda: time.monotonic() - begun > 0.5)
        claim, seconds = self._timed(hard_integer(rng), options)
        assert claim.status is Status.INTERRUPTED
        assert claim.point is not None
        assert claim.bound > -math.inf
        assert seconds < 0.5 + _OVERRUN

    @pytest.mark.parametrize("limit", [0.05, 0.4, 1.2])
    def test_time_limit_is_kept(self, rng: np.random.Generator, limit: float) -> None:
        """On a program that nobody closes in minutes."""
        claim, seconds = self._timed(hard_integer(rng), SolveOptions(time_limit=limit))
        assert claim.status is Status.TIME
        assert seconds < limit + _OVERRUN
        assert claim.seconds == pytest.approx(seconds, abs=0.1)

    def test_no_time_is_no_work(self, rng: np.random.Generator) -> None:
        """Zero and negative limits answer at once."""
        for model in (hard_integer(rng), random_linear(rng, rows=3, columns=4)):
            for limit in (0.0, -1.0):
                claim, seconds = self._timed(model, SolveOptions(time_limit=limit))
                assert claim.status is Status.TIME
                assert claim.point is None
                assert claim.bound == -math.inf
                assert seconds < 0.1

    def test_node_limit(self, rng: np.random.Generator) -> None:
        """Stops by nodes, not by time, and says so."""
        options = SolveOptions(time_limit=20.0, node_limit=3)
        claim = self.backend().solve(hard_integer(rng), options)
        assert claim.status is Status.NODES
        assert claim.nodes <= 10

    def test_same_seed_same_answer(self, rng: np.random.Generator) -> None:
        """Equal nodes and equal points."""
        model = hard_integer(rng)
        options = SolveOptions(node_limit=20, seed=3, time_limit=20.0)
        first, second = (self.backend().solve(model, options) for _ in range(2))
        assert first.nodes == second.nodes
        assert first.objective == second.objective

    def test_thread_count_may_change(self, rng: np.random.Generator) -> None:
        """One, two and one thread in one process."""
        model = random_binary(rng, rows=4, binaries=5, reals=5)
        wanted = self.backend().solve(model, SolveOptions(time_limit=20.0)).objective
        for threads in (2, 1):
            claim = self.backend().solve(model, SolveOptions(time_limit=20.0, threads=threads))
            assert claim.objective == pytest.approx(wanted, abs=_CLOSE)

    # Processes

    def test_a_killed_worker_is_a_failed_claim(self, rng: np.random.Generator) -> None:
        """SIGKILL in mid-solve: no exception, the last point survives, the next solve works."""
        self._needs_processes()
        self._timed(hard_integer(rng), SolveOptions(time_limit=0.3))
        once = SolveOptions(20.0, on_incumbent=lambda *_: signal_workers(signal.SIGKILL))
        claim, seconds = self._timed(hard_integer(rng), once)
        assert claim.status is Status.FAILED
        assert "signal 9" in claim.detail
        assert claim.point is not None
        assert seconds < 5.0
        first = SolveOptions(20.0, stop_at_incumbent=math.inf)
        after = self.backend().solve(hard_integer(rng), first)
        assert after.status is Status.INCUMBENT_REACHED
        assert after.point is not None

    def test_a_hung_worker_is_killed_in_time(self, rng: np.random.Generator) -> None:
        """SIGSTOP in mid-solve: the limit holds, and what was streamed survives."""
        self._needs_processes()
        self._timed(hard_integer(rng), SolveOptions(time_limit=0.3))
        timer = threading.Timer(0.6, signal_workers, (signal.SIGSTOP,))
        timer.start()
        claim, seconds = self._timed(hard_integer(rng), SolveOptions(time_limit=1.0))
        timer.join()
        assert claim.status is Status.TIME
        assert claim.point is not None
        assert claim.bound > -math.inf
        assert seconds < 1.0 + _OVERRUN

    # Helpers

    def _timed(self, model: Model, options: SolveOptions) -> tuple[Claim, float]:
        begun = time.monotonic()
        claim = self.backend().solve(model, options)
        return claim, time.monotonic() - begun

    def _session(self, model: Model) -> LinearSession:
        if not self.backend().capabilities.warm_start:
            pytest.skip("this backend holds no linear programs")
        return self.backend().session(model)

    def _needs_duals(self) -> None:
        if not self.backend().capabilities.duals:
            pytest.skip("this backend gives no duals")

    def _needs_processes(self) -> None:
        if not self.backend().capabilities.killable or not Path("/proc/self/task").exists():
            pytest.skip("this backend runs in the caller's process, or the system has no /proc")
