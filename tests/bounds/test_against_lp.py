"""Optimised linear bounds against the linear programs they are the duals of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from branching_cases import RELU_KINDS, cases
from closegap.bounds.intermediate import NetworkBounds
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.encode import EncodeOptions, encode
from closegap.graph import ops
from closegap.mip.model import SolveOptions, Status
from closegap.mip.registry import choose
from closegap.specs.query import Query
from closegap.specs.region import Ball, lp_ball
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.bab.walls import Walls
from closegap.verify.incomplete import LinearVerifier
from tiny_networks import dense

LONG = AscentOptions(iterations=500, goal=np.inf, patience=500, slope_rate=0.1, decay=0.99)


def triangle_bound(query: Query, bounds: NetworkBounds, clause: int) -> float:
    """Optimum of the triangle relaxation with the given bounds."""
    flat = {
        i: (b.lower[0].flatten().numpy(), b.upper[0].flatten().numpy())
        for i, b in bounds.activations.items()
    }
    model = encode(query, flat, clause=clause, options=EncodeOptions(relax=True)).model
    claim = choose("lp")[0].solve(model, SolveOptions())
    assert claim.status is Status.OPTIMAL
    return claim.objective


@pytest.mark.parametrize(("norm", "radius"), [(np.inf, 0.5), (1, 0.8)])
@pytest.mark.parametrize("kind", RELU_KINDS)
def test_no_linear_bound_beats_the_triangle(
    kind: str, norm: float, radius: float, rng: np.random.Generator
) -> None:
    case = next(cases(rng, RELU_KINDS[kind], 1, norm=norm, radius=radius))
    linear = LinearVerifier(case.query)
    bounds = linear.activations(Budget())
    rows = np.arange(2)
    plain = linear.rows(bounds, Budget(), rows).lower
    climbed = linear.rows(bounds, Budget(), rows, LONG).lower
    for clause in range(2):
        best = triangle_bound(case.query, bounds, clause)
        assert plain[clause] <= best + 1e-7
        assert climbed[clause] <= best + 1e-7
        assert best <= case.margins[clause] + 1e-7


@pytest.mark.parametrize("activation", [ops.Relu(), ops.LeakyRelu(0.1)])
def test_one_hidden_layer_reaches_the_triangle(
    activation: ops.Op, rng: np.random.Generator
) -> None:
    for _ in range(3):
        case = next(cases(rng, lambda r: dense(r, [3, 8, 2], activation), 1))
        linear = LinearVerifier(case.query)
        bounds = linear.activations(Budget())
        climbed = linear.rows(bounds, Budget(), np.arange(2), LONG).lower
        for clause in range(2):
            best = triangle_bound(case.query, bounds, clause)
            assert climbed[clause] == pytest.approx(best, abs=1e-3)


def problem_of(query: Query) -> SplitProblem:
    bounds = LinearVerifier(query).activations(Budget())
    problem = split_problem(query, bounds, np.arange(query.prop.clauses))
    assert problem is not None
    return problem


@pytest.mark.parametrize("kind", ["dense", "leaky", "narrow residual", "convolutional"])
def test_fully_split_domains_reach_the_leaf_program(kind: str, rng: np.random.Generator) -> None:
    case = next(cases(rng, RELU_KINDS[kind], 1, clauses=(1,)))
    # Far below zero everywhere, so that the programs give every leaf's optimum.
    low = replace(case.query.prop, offsets=case.query.prop.offsets - 100)
    problem = problem_of(replace(case.query, prop=low))
    box = case.query.region
    share = rng.uniform(size=(12, *case.query.network.input_shape))
    points = (box.lower + share * (box.upper - box.lower)).reshape(12, *_input_shape(problem))
    values = problem.exact.values(problem.exact.tensor(points))
    parts = [values[layer.feed].flatten(1)[:, layer.indices] for layer in problem.layers]
    signs = np.concatenate([np.where(p.numpy() >= 0, 1, -1) for p in parts], axis=1)
    units = np.repeat(np.arange(problem.units)[None], 12, axis=0)
    root = np.zeros(12, np.int64)
    exact = LeafPrograms(problem).solve(root, Walls.at_zero(signs), Budget.of_seconds(60))
    options = AscentOptions(iterations=300, goal=np.inf, patience=300, decay=0.99, split_rate=0.3)
    bounder, payload = DomainBounder(problem, options), None
    for _ in range(2):  # the second time with learned scales
        dual = bounder.bound(DomainBatch(root, units, signs, payload), Budget())
        payload = dual.payload
    gap = exact.lower - dual.lower
    assert (gap >= -1e-6).all()
    assert np.mean(gap < 1e-2) > 0.3  # thin leaves need multipliers that Adam does not reach


def _input_shape(problem: SplitProblem) -> tuple[int, ...]:
    return problem.exact.network.input_shape


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize("kind", RELU_KINDS)
def test_domain_bounds_hold_on_their_points(
    kind: str, norm: float, rng: np.random.Generator
) -> None:
    case = next(cases(rng, RELU_KINDS[kind], 1, clauses=(1, 1), radius=0.5))
    query = case.query if norm == np.inf else _ball(case.query, norm)
    problem = problem_of(query)
    points = _points(query, rng, 600)
    inner = points.reshape(-1, *_input_shape(problem))
    values = problem.exact.values(problem.exact.tensor(inner))
    parts = [values[layer.feed].flatten(1)[:, layer.indices] for layer in problem.layers]
    heights = np.concatenate([p.numpy() for p in parts], axis=1)
    rows = query.prop.row_margins(values[-1].flatten(1).numpy())
    bounder = DomainBounder(problem, AscentOptions(iterations=15, goal=np.inf, split_rate=0.3))
    payload = None
    for depth in (0, 1, 2, problem.units // 2, problem.units):
        chosen = rng.integers(0, len(points), 20)
        units = np.stack([rng.permutation(problem.units)[:depth] for _ in chosen])
        signs = np.where(np.take_along_axis(heights[chosen], units, axis=1) >= 0, 1, -1)
        root = rng.integers(0, 2, 20)
        found = bounder.bound(DomainBatch(root, units, signs, payload), Budget())
        payload = found.payload * rng.uniform(0, 3, found.payload.shape).astype(np.float32)
        for domain in range(20):
            inside = (heights[:, units[domain]] * signs[domain] >= 0).all(axis=1)
            assert inside.any()
            assert (rows[inside, root[domain]] >= found.lower[domain]).all()


def _ball(query: Query, norm: float) -> Query:
    center = (query.region.lower + query.region.upper) / 2
    return replace(query, region=lp_ball(center, 0.7, norm=norm, low=None, high=None))


def _points(query: Query, rng: np.random.Generator, count: int) -> np.ndarray:
    region = query.region
    box = region.box if isinstance(region, Ball) else region
    share = rng.choice([0.0, 1.0, 0.5], size=(count, *box.lower.shape))
    share[: count // 2] = rng.uniform(size=(count // 2, *box.lower.shape))
    points = box.lower + share * (box.upper - box.lower)
    if isinstance(region, Ball):
        step = (points - region.center).reshape(count, -1)
        size = np.linalg.norm(step, ord=region.norm, axis=1, keepdims=True)
        step *= np.minimum(1, region.radius / np.maximum(size, 1e-30)) * (1 - 1e-12)
        points = region.center + step.reshape(points.shape)
    return points
