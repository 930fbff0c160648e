"""HiGHS in this process, against the shipped suite."""

from __future__ import annotations

import numpy as np
import pytest

from closegap.core.errors import OptionError, SolverError
from closegap.mip.highs import HighsBackend
from closegap.mip.model import MipBackend, SolveOptions, Status
from closegap.mip.registry import backend
from closegap.testing.mip_cases import MipBackendCase
from closegap.testing.mip_models import random_linear


class TestHighs(MipBackendCase):
    def backend(self) -> MipBackend:
        return backend("highs")


def test_session_changes_are_checked(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=4, columns=5)
    session = HighsBackend().session(model)
    with pytest.raises(SolverError, match="NaN"):
        session.set_costs(np.full(5, np.nan))
    with pytest.raises(SolverError, match="NaN"):
        session.set_column_bounds(np.array([0]), np.array([np.nan]), np.array([1.0]))
    assert (session.model().cost == model.cost).all()
    assert session.solve(SolveOptions()).status is Status.OPTIMAL


def test_session_does_not_alias_the_model(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=4, columns=5)
    before = model.lower.copy()
    session = HighsBackend().session(model)
    session.set_column_bounds(np.array([0, 1]), np.array([-9.0, -9.0]), np.array([9.0, 9.0]))
    assert (model.lower == before).all()
    session.model().cost[:] = 0.0
    assert (session.model().cost == model.cost).all()


def test_linear_program_stops_at_bound(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=40, columns=60)
    full = HighsBackend().solve(model, SolveOptions())
    low = HighsBackend().solve(model, SolveOptions(stop_at_bound=full.objective - 1.0))
    assert low.status in (Status.BOUND_REACHED, Status.OPTIMAL)
    assert full.objective - 1.0 <= low.bound <= full.objective
    high = HighsBackend().solve(model, SolveOptions(stop_at_bound=full.objective + 1.0))
    assert high.status is Status.OPTIMAL


def test_linear_program_is_interrupted(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=150, columns=220)
    claim = HighsBackend().solve(model, SolveOptions(interrupted=lambda: True))
    assert claim.status is Status.INTERRUPTED


def test_options_are_checked() -> None:
    with pytest.raises(OptionError, match="time_limit"):
        SolveOptions(time_limit=float("nan"))
    with pytest.raises(OptionError, match="threads"):
        SolveOptions(threads=0)
