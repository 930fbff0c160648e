"""Gurobi against the shipped suite, where it is installed; and what is said where it is not."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

from closegap.core.errors import MissingDependencyError, OptionError
from closegap.mip.gurobi import GurobiBackend
from closegap.mip.model import MipBackend, SolveOptions, Status
from closegap.mip.registry import available, backend, choose
from closegap.testing.conic_cases import by_tangents, random_conic
from closegap.testing.mip_cases import MipBackendCase
from closegap.testing.mip_models import random_linear

needs_gurobi = pytest.mark.skipif(
    not GurobiBackend().installed(), reason="gurobipy is not installed"
)


@needs_gurobi
class TestGurobi(MipBackendCase):
    def backend(self) -> MipBackend:
        return backend("gurobi")


@needs_gurobi
def test_optima_over_cones_are_those_of_tangents(rng: np.random.Generator) -> None:
    for _ in range(5):
        model = random_conic(rng, rows=6, columns=12, cones=2)
        claim = backend("gurobi").solve(model, SolveOptions())
        assert claim.status is Status.OPTIMAL and claim.point is not None
        least = by_tangents(model)
        assert claim.objective == pytest.approx(least, abs=1e-5)
        assert claim.bound == -np.inf
        whole = replace(model, integer=np.arange(model.columns) < 3)
        mixed = backend("gurobi").solve(whole, SolveOptions(time_limit=20))
        assert mixed.bound <= mixed.objective + 1e-7
        assert mixed.status is Status.INFEASIBLE or mixed.objective >= least - 1e-6


@needs_gurobi
def test_programs_beyond_the_licence_fail_in_one_line(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=5, columns=2500)
    claim = backend("gurobi").solve(model, SolveOptions(time_limit=20))
    if claim.status is Status.OPTIMAL:
        pytest.skip("there is a licence without limits")
    assert claim.status is Status.FAILED and claim.point is None
    assert "Gurobi" in claim.detail and "\n" not in claim.detail


def test_where_it_is_missing_another_solver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GurobiBackend, "installed", lambda self: False)
    solver, note = choose("mip", "gurobi")
    assert solver.name != "gurobi" and "gurobi is not installed" in note
    assert "gurobi" not in available()


def test_a_missing_package_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setitem(sys.modules, "gurobipy", None)
    with pytest.raises(MissingDependencyError, match=r"closegap\[gurobi\]"):
        GurobiBackend().solve(random_linear(rng, rows=2, columns=3), SolveOptions())


def test_it_holds_no_programs_and_is_none_for_linear_ones(rng: np.random.Generator) -> None:
    with pytest.raises(OptionError, match="highs"):
        GurobiBackend().session(random_linear(rng, rows=2, columns=3))
    with pytest.raises(OptionError, match="lp"):
        choose("lp", "gurobi")


def test_flawed_programs_never_reach_it(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=2, columns=3)
    flawed = replace(model, cost=np.full_like(model.cost, np.nan))
    assert GurobiBackend().solve(flawed, SolveOptions()).status is Status.FAILED
