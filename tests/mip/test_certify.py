"""Certified bounds against exact rational arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy.sparse import csr_array

from closegap.mip.certify import certified_lower_bound, certifies_infeasibility
from closegap.mip.highs import HighsBackend
from closegap.mip.model import Model, SolveOptions, Status
from closegap.testing.mip_models import random_linear

SCALES = [1.0, 1e8, 1e-8]


def exact_bound(model: Model, duals: np.ndarray) -> Fraction:
    """The bound of `certify` in rational arithmetic; boxes and used sides must be finite."""
    dense = model.matrix.toarray()
    y = [Fraction(float(v)) for v in duals]
    total = Fraction(model.constant)
    for i, value in enumerate(y):
        side = model.row_lower[i] if value > 0 else model.row_upper[i]
        y[i] = value if math.isfinite(side) else Fraction(0)
        total += y[i] * Fraction(float(side)) if math.isfinite(side) else 0
    for j in range(model.columns):
        pairs = ((Fraction(float(dense[i, j])), y[i]) for i in range(model.rows))
        reduced = Fraction(float(model.cost[j])) - sum(a * b for a, b in pairs)
        ends = Fraction(float(model.lower[j])), Fraction(float(model.upper[j]))
        total += min(reduced * end for end in ends)
    return total


@pytest.mark.parametrize("scale", SCALES)
def test_bound_is_below_the_exact_one_and_close_to_it(
    rng: np.random.Generator, scale: float
) -> None:
    for _ in range(30):
        model = random_linear(rng, rows=6, columns=9)
        model = replace(model, cost=model.cost * scale)
        duals = rng.normal(size=model.rows) * 10.0 ** rng.integers(-6, 7, model.rows)
        exact = exact_bound(model, duals)
        bound = certified_lower_bound(model, duals)
        assert Fraction(bound) <= exact
        magnitude = np.abs(model.cost).sum() + np.abs(model.matrix.toarray().T @ duals).sum() + 1
        reach = np.abs([model.lower, model.upper]).max() * np.abs(duals).max()
        assert float(exact) - bound <= 1e-12 * (magnitude * (1 + reach))


def test_bound_from_optimal_duals_meets_the_optimum(rng: np.random.Generator) -> None:
    for _ in range(10):
        model = random_linear(rng, rows=8, columns=12)
        claim = HighsBackend().solve(model, SolveOptions())
        assert claim.status is Status.OPTIMAL
        bound = certified_lower_bound(model, claim.row_duals)
        assert bound <= claim.objective
        assert bound == pytest.approx(claim.objective, abs=1e-9)


def test_no_duals_give_the_minimum_over_the_box(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=5, columns=7)
    box = np.where(model.cost > 0, model.lower, model.upper) @ model.cost + model.constant
    assert certified_lower_bound(model, np.zeros(5)) == pytest.approx(box)


def test_cancellation_is_accounted_for() -> None:
    """Rounded reduced cost zero, exact one not: only the rounding term makes the bound hold."""
    tenth = 0.1
    model = Model(
        cost=np.array([tenth + tenth + tenth]),
        matrix=csr_array(np.array([[tenth], [tenth], [tenth]])),
        row_lower=np.zeros(3),
        row_upper=np.zeros(3),
        lower=np.array([-1e15]),
        upper=np.array([1e15]),
        integer=np.array([False]),
    )
    duals = np.ones(3)
    assert (model.cost - model.matrix.T @ duals)[0] == 0.0
    assert exact_bound(model, duals) < 0
    assert Fraction(certified_lower_bound(model, duals)) <= exact_bound(model, duals)


def test_underflow_is_accounted_for() -> None:
    """The product underflows to zero, the column is free: no bound may be claimed."""
    model = Model(
        cost=np.zeros(1),
        matrix=csr_array(np.array([[1e-200]])),
        row_lower=np.zeros(1),
        row_upper=np.full(1, np.inf),
        lower=np.array([-np.inf]),
        upper=np.array([np.inf]),
        integer=np.array([False]),
    )
    assert certified_lower_bound(model, np.array([1e-200])) == -math.inf
    assert certified_lower_bound(model, np.array([0.0])) == pytest.approx(0.0, abs=1e-300)


def test_duals_towards_missing_sides_count_as_zero(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=4, columns=5)
    model = replace(model, row_lower=np.full(4, -np.inf), row_upper=np.full(4, 1.0))
    mixed = np.array([1.0, -1.0, np.nan, np.inf])
    clean = np.array([0.0, -1.0, 0.0, 0.0])
    assert certified_lower_bound(model, mixed) == certified_lower_bound(model, clean)


def test_infinite_column_needs_a_reduced_cost_of_the_right_sign() -> None:
    model = Model(
        cost=np.array([1.0, 2.0]),
        matrix=csr_array(np.array([[1.0, 1.0]])),
        row_lower=np.array([1.0]),
        row_upper=np.array([np.inf]),
        lower=np.zeros(2),
        upper=np.array([1.0, np.inf]),
        integer=np.zeros(2, dtype=bool),
    )
    assert certified_lower_bound(model, np.array([1.0])) == pytest.approx(1.0)
    assert certified_lower_bound(model, np.array([3.0])) == -math.inf


def test_farkas_ray_is_checked(rng: np.random.Generator) -> None:
    for _ in range(10):
        model = random_linear(rng, rows=6, columns=8)
        inside = model.matrix.toarray()[0]
        high = float(np.maximum(inside * model.lower, inside * model.upper).sum())
        lower, upper = model.row_lower.copy(), model.row_upper.copy()
        lower[0], upper[0] = high + 1e-3, np.inf
        broken = replace(model, row_lower=lower, row_upper=upper)
        claim = HighsBackend().solve(broken, SolveOptions())
        assert claim.status is Status.INFEASIBLE
        assert claim.bound == math.inf
        assert certifies_infeasibility(broken, claim.row_duals)
        assert not certifies_infeasibility(model, claim.row_duals)
        assert not certifies_infeasibility(broken, -claim.row_duals)


def test_no_multipliers_refute_a_feasible_program(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=6, columns=8)
    for _ in range(300):
        ray = rng.normal(size=6) * 10.0 ** rng.integers(-9, 10)
        assert not certifies_infeasibility(model, ray)


def test_wrong_length_and_nan_models(rng: np.random.Generator) -> None:
    model = random_linear(rng, rows=3, columns=4)
    with pytest.raises(ValueError, match="row_duals"):
        certified_lower_bound(model, np.zeros(2))
    nan = replace(model, cost=np.full(4, np.nan))
    assert certified_lower_bound(nan, np.zeros(3)) == -math.inf
    assert certified_lower_bound(model, np.full(3, 1e308)) == -math.inf
