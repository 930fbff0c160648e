from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from closegap.attacks.projection import (
    batch_regions,
    project,
    sample,
    steepest,
    to_float32_inside,
)
from closegap.specs.region import Ball, Box, Region, contains, lp_ball

NORMS = (1.0, 2.0, math.inf)


def random_region(rng: np.random.Generator, norm: float, size: int) -> Region:
    center = rng.uniform(0, 1, size)
    center[rng.random(size) < 0.3] = 0.0
    scale = {1: 0.4, 2: 0.4, math.inf: 0.3}[norm]
    return lp_ball(center, float(scale * rng.uniform(0.2, 2)), norm=norm)


def one(array: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(array, dtype=torch.float32)[None, None]


def exact_projection(region: Ball, point: np.ndarray) -> np.ndarray:
    """The nearest point by a general solver (SLSQP), with |d| = p + n for the l1 ball."""
    size = point.size
    box = region.box
    if region.norm == 2:
        answer = minimize(
            lambda x: 0.5 * np.sum((x - point) ** 2),
            region.center,
            jac=lambda x: x - point,
            bounds=list(zip(box.lower, box.upper, strict=True)),
            constraints={
                "type": "ineq",
                "fun": lambda x: region.radius**2 - np.sum((x - region.center) ** 2),
                "jac": lambda x: -2 * (x - region.center),
            },
            method="SLSQP",
            options={"maxiter": 500, "ftol": 1e-14},
        )
        return np.asarray(answer.x)
    up, down = box.upper - region.center, region.center - box.lower
    offset = point - region.center

    def slope(v: np.ndarray) -> np.ndarray:
        half = v[:size] - v[size:] - offset
        return np.concatenate([half, -half])

    answer = minimize(
        lambda v: 0.5 * np.sum((v[:size] - v[size:] - offset) ** 2),
        np.zeros(2 * size),
        jac=lambda v: np.concatenate(
            [v[:size] - v[size:] - offset, -(v[:size] - v[size:] - offset)]
        ),
        bounds=[(0.0, b) for b in np.concatenate([up, down])],
        constraints={
            "type": "ineq",
            "fun": lambda v: region.radius - v.sum(),
            "jac": lambda v: -np.ones(2 * size),
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    return np.asarray(region.center + answer.x[:size] - answer.x[size:])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([1.0, 2.0]), st.integers(1, 6))
def test_ball_projection_is_the_nearest_point(seed: int, norm: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    region = random_region(rng, norm, size)
    point = rng.normal(0.5, 1.0, size)
    got = project(batch_regions([region]), one(point))[0, 0].numpy()
    assert contains(region, got)
    want = exact_projection(region, point)
    assert np.linalg.norm(got - point) <= np.linalg.norm(want - point) + 2e-6
    np.testing.assert_allclose(got, want, atol=2e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_projection_is_idempotent_and_keeps_members(norm: float, rng: np.random.Generator) -> None:
    regions = [random_region(rng, norm, 30) for _ in range(5)]
    batch = batch_regions(regions)
    points = torch.as_tensor(rng.normal(0.5, 2, (5, 7, 30)), dtype=torch.float32)
    once = project(batch, points)
    np.testing.assert_allclose(project(batch, once), once, atol=1e-6)
    inside = batch.center[:, None] + 0.5 * (once - batch.center[:, None])
    np.testing.assert_allclose(project(batch, inside), inside, atol=1e-6)
    for b, region in enumerate(regions):
        assert all(contains(region, p) for p in once[b].numpy())


def linear_minimum(region: Region, weights: np.ndarray) -> float:
    """min w.x over the region: LP for boxes and l1, closed bisection-free bound for l2 by SLSQP."""
    if isinstance(region, Box):
        return float(np.where(weights > 0, region.lower, region.upper) @ weights)
    if region.norm == 1:
        up, down = region.box.upper - region.center, region.center - region.box.lower
        answer = linprog(
            np.concatenate([weights, -weights]),
            A_ub=np.ones((1, 2 * weights.size)),
            b_ub=[region.radius],
            bounds=[(0, b) for b in np.concatenate([up, down])],
        )
        return float(answer.fun + weights @ region.center)
    answer = minimize(
        lambda x: weights @ x,
        region.center,
        jac=lambda x: weights,
        bounds=list(zip(region.box.lower, region.box.upper, strict=True)),
        constraints={
            "type": "ineq",
            "fun": lambda x: region.radius**2 - np.sum((x - region.center) ** 2),
            "jac": lambda x: -2 * (x - region.center),
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-14},
    )
    return float(answer.fun)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.integers(1, 8))
def test_one_steepest_step_minimises_a_linear_function(seed: int, norm: float, size: int) -> None:
    rng = np.random.default_rng(seed)
    region = random_region(rng, norm, size)
    weights = rng.normal(size=size) * (rng.random(size) < 0.8)
    batch = batch_regions([region])
    point = project(batch, batch.center[:, None] + steepest(batch, one(weights)))[0, 0].numpy()
    assert contains(region, point)
    least = linear_minimum(region, weights)
    assert abs(float(weights @ point) - least) <= 1e-5 * (1 + abs(least))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.integers(1, 200), st.floats(1e-3, 300))
def test_to_float32_inside_lands_inside(seed: int, norm: float, size: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    center = rng.uniform(-scale, scale, size)
    region = lp_ball(center, float(rng.uniform(0.01, 1) * scale), norm=norm, low=None, high=None)
    point = to_float32_inside(region, rng.normal(0, 3 * scale, size))
    assert point is not None
    assert point.dtype == np.float32
    assert contains(region, point)


def test_to_float32_inside_keeps_members_exactly(rng: np.random.Generator) -> None:
    region = lp_ball(rng.uniform(0.2, 0.8, 20).astype(np.float32), 0.5, norm=2.0)
    inside = (region.center + rng.normal(0, 0.02, 20)).astype(np.float32)
    kept = to_float32_inside(region, inside)
    assert kept is not None
    np.testing.assert_array_equal(kept, inside)


def test_a_ball_without_float32_points_gives_none() -> None:
    assert to_float32_inside(lp_ball([0.1, 0.3], 1e-12, norm=2.0), np.array([0.1, 0.3])) is None


def test_fixed_inputs_stay_fixed(rng: np.random.Generator) -> None:
    lower = np.array([0.1, -3.0, 60261.0])
    upper = np.array([0.1, 5.0, 62123.7])
    batch = batch_regions([Box(lower, upper)])
    points = sample(batch, 50, torch.Generator().manual_seed(0))[0].numpy()
    assert np.unique(points[:, 0]).size == 1
    assert all(contains(Box(lower, upper), p) for p in points)
    assert points[:, 2].min() < 60500 < 61900 < points[:, 2].max()
    assert batch.unit[0, 0] == 0


def test_a_batch_needs_one_norm() -> None:
    with pytest.raises(ValueError, match="one norm"):
        batch_regions([lp_ball([0.5], 0.1, norm=2.0), lp_ball([0.5], 0.1)])
