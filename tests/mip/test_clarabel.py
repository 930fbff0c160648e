"""Clarabel: the suite of conic programs, quadratic costs, and what happens without it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from closegap.core.errors import OptionError
from closegap.mip.clarabel import ClarabelBackend
from closegap.mip.conic import ConicModel
from closegap.mip.model import MipBackend, SolveOptions, Status
from closegap.mip.piqp import solve_quadratic
from closegap.mip.quadratic import QuadraticModel
from closegap.mip.registry import available, backend, choose
from closegap.testing.conic_cases import ConicBackendCase, random_conic
from closegap.testing.mip_models import random_linear

needs_clarabel = pytest.mark.skipif(
    not ClarabelBackend().installed(), reason="clarabel is not installed"
)


@needs_clarabel
class TestClarabel(ConicBackendCase):
    def backend(self) -> MipBackend:
        return backend("clarabel")


def quadratic(rng: np.random.Generator) -> QuadraticModel:
    linear = random_linear(rng, rows=6, columns=12)
    curvature = np.where(np.arange(12) % 3, rng.random(12), 0.0)
    return QuadraticModel(
        curvature, linear.cost, linear.matrix, linear.row_lower, linear.row_upper, linear.lower,
        linear.upper,
    )  # fmt: skip


def least_over_box(model: QuadraticModel, duals: np.ndarray) -> float:
    """What multipliers prove, but for rounding: the Lagrangian's least value over the box."""
    reduced = model.cost - model.matrix.T @ duals
    flat = model.curvature == 0
    best = np.where(flat, np.where(reduced > 0, model.lower, model.upper), 0.0)
    best = np.where(flat, best, -reduced / np.where(flat, 1.0, model.curvature))
    best = np.clip(best, model.lower, model.upper)
    sides = np.where(duals > 0, model.row_lower, model.row_upper)
    rows = np.where(duals == 0, 0.0, duals * np.where(np.isfinite(sides), sides, 0.0))
    return float((model.curvature * best**2 / 2 + reduced * best).sum() + rows.sum())


@needs_clarabel
def test_quadratic_optimum_is_piqps_and_its_duals_prove_it(rng: np.random.Generator) -> None:
    for _ in range(5):
        model = quadratic(rng)
        conic = ConicModel(model, csr_array((0, 12)), np.zeros(0))
        claim, other = ClarabelBackend().solve_conic(conic, SolveOptions()), solve_quadratic(model)
        assert claim.status is other.status is Status.OPTIMAL
        assert claim.objective == pytest.approx(other.objective, abs=1e-6)
        assert claim.row_duals is not None
        pushed = np.where(np.abs(claim.row_duals) < 1e-7, 0.0, claim.row_duals)
        assert least_over_box(model, pushed) == pytest.approx(claim.objective, abs=1e-5)


@needs_clarabel
def test_cones_of_affine_functions() -> None:
    """`min x` where `||(3, 4)|| <= 2 x - 1`: at 3; the multiplier is the cost over the slope."""
    base = QuadraticModel(
        np.zeros(1), np.ones(1), csr_array((0, 1)), np.zeros(0), np.zeros(0),
        np.full(1, -math.inf), np.full(1, math.inf),
    )  # fmt: skip
    model = ConicModel(
        base, csr_array(np.array([[2.0], [0.0], [0.0]])), np.array([-1.0, 3.0, 4.0]), (3,), 0.5
    )
    claim = ClarabelBackend().solve_conic(model, SolveOptions())
    assert claim.objective == pytest.approx(3.5, abs=1e-6)
    assert claim.bound == pytest.approx(3.5, abs=1e-6)
    np.testing.assert_allclose(claim.cone_duals, [0.5, -0.3, -0.4], atol=1e-6)
    with pytest.raises(ValueError, match="should be"):
        replace(model, sizes=(2,))
    concave = replace(model, quadratic=replace(base, curvature=-np.ones(1)))
    assert "convex" in ClarabelBackend().solve_conic(concave, SolveOptions()).detail


@needs_clarabel
def test_a_point_off_the_cones_is_no_optimum(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_conic(rng, rows=6, columns=14, cones=4)
    monkeypatch.setattr("closegap.mip.clarabel.QP_ROW_SLACK", -1.0)
    claim = ClarabelBackend().solve(model, SolveOptions())
    assert claim.status is Status.FAILED and claim.point is None and claim.bound == -math.inf


def test_it_is_asked_for_continuous_programs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("lp", "mip"):
        with pytest.raises(OptionError, match="clarabel"):
            choose(kind, "clarabel")
    monkeypatch.setattr(ClarabelBackend, "installed", lambda self: False)
    assert "clarabel" not in available()
