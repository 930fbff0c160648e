"""Leaves: linear programs decide them, and no bound is above a sampled value."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice, product

import numpy as np
import pytest

from branching_cases import RELU_KINDS, cases
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.encode import EncodeOptions, encode
from closegap.mip.model import Claim, SolveOptions, Status
from closegap.mip.registry import choose
from closegap.specs.query import Query
from closegap.specs.region import Ball, Box
from closegap.testing.enumeration import least_clause_margin
from closegap.verify.bab import finish
from closegap.verify.bab import leaves as leaves_module
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.bab.small import SmallOptions, SmallPrograms, SmallWorth
from closegap.verify.bab.walls import Walls
from closegap.verify.incomplete import LinearVerifier


def problem_of(query: Query) -> SplitProblem:
    bounds = LinearVerifier(query).activations(Budget())
    problem = split_problem(query, bounds, np.arange(query.prop.clauses))
    assert problem is not None
    return problem


def all_signs(units: int) -> np.ndarray:
    return np.array(list(product([-1, 1], repeat=units)), np.int8).reshape(-1, units)


@pytest.mark.parametrize(("norm", "radius"), [(np.inf, 0.4), (1, 0.7)])
@pytest.mark.parametrize("kind", ["dense", "wide", "leaky", "narrow residual"])
def test_the_least_leaf_is_the_least_margin(
    kind: str, norm: float, radius: float, rng: np.random.Generator
) -> None:
    # Every pattern of the unstable units is solved.
    case = next(cases(rng, RELU_KINDS[kind], 1, clauses=(1,), norm=norm, radius=radius))
    problem = problem_of(case.query)
    signs = all_signs(problem.units)
    root = np.zeros(len(signs), np.int64)
    found = LeafPrograms(problem).solve(root, Walls.at_zero(signs), Budget.of_seconds(60))
    assert found.tried.all()
    assert (found.lower > 0).all() == (case.margin > 0)
    if case.margin < 0:
        assert found.lower.min() <= case.margin
        assert found.lower.min() == pytest.approx(case.margin, abs=1e-7)
        assert len(found.points)


@pytest.mark.parametrize("clauses", [(1,), (2,)])
def test_bounds_hold_on_sampled_points(clauses: tuple[int, ...], rng: np.random.Generator) -> None:
    case = next(cases(rng, RELU_KINDS["residual"], 1, clauses=clauses))
    problem = problem_of(case.query)
    box = case.query.region
    assert isinstance(box, Box)
    points = box.lower + rng.uniform(size=(400, 3)) * (box.upper - box.lower)
    units = unit_values(problem, points)
    pattern = np.where(units >= 0, 1, -1).astype(np.int8)
    hidden = rng.random(pattern.shape) < 0.5
    outputs = problem.exact(problem.exact.tensor(points)).numpy()
    margins = case.query.prop.clause_values(case.query.prop.row_margins(outputs))[:, 0]
    root = np.zeros(30, np.int64)
    programs = LeafPrograms(problem)
    for signs in (pattern, np.where(hidden, 0, pattern).astype(np.int8)):
        found = programs.solve(root, Walls.at_zero(signs[:30]), Budget.of_seconds(60))
        for leaf, bound in enumerate(found.lower):
            inside = ((signs[leaf] == 0) | (signs[leaf] == pattern)).all(axis=1)
            assert inside.any()
            assert (margins[inside] >= bound).all()


def unit_values(problem: SplitProblem, points: np.ndarray) -> np.ndarray:
    values = problem.exact.values(problem.exact.tensor(points))
    parts = [values[layer.feed].flatten(1)[:, layer.indices] for layer in problem.layers]
    return np.concatenate([np.asarray(p.numpy()) for p in parts], axis=1)


def test_agrees_with_the_encoder_on_a_leaf(rng: np.random.Generator) -> None:
    solver, _ = choose("lp")
    case = next(cases(rng, RELU_KINDS["dense"], 1, clauses=(1,)))
    problem = problem_of(case.query)
    flat = {
        i: (b.lower[0].flatten().numpy(), b.upper[0].flatten().numpy())
        for i, b in problem.bounds.items()
    }
    box = case.query.region
    points = box.lower + rng.uniform(size=(10, 2)) * (box.upper - box.lower)
    signs = np.where(unit_values(problem, points) >= 0, 1, -1).astype(np.int8)
    found = LeafPrograms(problem).solve(
        np.zeros(10, np.int64), Walls.at_zero(signs), Budget.of_seconds(60)
    )
    query = replace(case.query, network=problem.exact.network)
    for leaf in range(len(signs)):
        phases = {}
        for layer in problem.layers:  # stable units are free, and fixed by their bounds
            phases[layer.feed] = np.zeros(len(flat[layer.feed][0]), dtype=np.int8)
            phases[layer.feed][layer.indices] = signs[leaf, layer.units]
        encoded = encode(query, flat, clause=0, options=EncodeOptions(relax=True), phases=phases)
        claim = solver.solve(encoded.model, SolveOptions())
        assert claim.status is Status.OPTIMAL
        if claim.objective < 0:
            assert found.lower[leaf] == pytest.approx(claim.objective, abs=1e-7)
        else:
            assert found.lower[leaf] > 0 or claim.objective < 1e-7


class Liar:
    """Claims a wonderful objective, and duals that prove nothing."""

    def solve(self, model, options):
        return Claim(Status.OPTIMAL, objective=9.0, bound=9.0, row_duals=np.zeros(model.rows))


def test_a_solver_is_not_believed(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaves_module, "choose", lambda kind: (Liar(), ""))
    case = next(cases(rng, RELU_KINDS["dense"], 1, clauses=(1,)))
    problem = problem_of(case.query)
    signs = all_signs(problem.units)
    found = LeafPrograms(problem).solve(
        np.zeros(len(signs), np.int64), Walls.at_zero(signs), Budget.of_seconds(60)
    )
    assert found.tried.all()
    assert (found.lower <= 0).all()


def test_an_l2_ball_is_cut_out_of_its_box(rng: np.random.Generator) -> None:
    for case in islice(cases(rng, RELU_KINDS["dense"], 1, clauses=(1,), radius=0.6), 1):
        box = case.query.region
        center = (box.lower + box.upper) / 2
        query = replace(case.query, region=Ball(box, center, 0.6, 2))
        # The box's margin is a lower bound of the ball's, and a dense fan of directions an upper.
        angle = np.linspace(0, 2 * np.pi, 4001)
        fan = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        points = np.concatenate([center + 0.6 * s * fan for s in np.linspace(0, 1, 41)])
        problem = problem_of(query)
        outputs = problem.exact(problem.exact.tensor(points)).numpy()
        sampled = float(query.prop.row_margins(outputs).min())
        moved = replace(query.prop, offsets=query.prop.offsets - sampled - 0.01)
        problem = problem_of(replace(query, prop=moved))
        signs = all_signs(problem.units)
        found = LeafPrograms(problem).solve(
            np.zeros(len(signs), np.int64), Walls.at_zero(signs), Budget.of_seconds(60)
        )
        assert -0.0101 - 1e-3 <= found.lower.min() <= -0.01 + 1e-9
        assert least_clause_margin(case.query, 0) <= sampled


def test_no_time_means_nothing_was_tried(rng: np.random.Generator) -> None:
    case = next(cases(rng, RELU_KINDS["dense"], 1))
    problem = problem_of(case.query)
    signs = np.ones((3, problem.units), np.int8)
    found = LeafPrograms(problem).solve(
        np.zeros(3, np.int64), Walls.at_zero(signs), Budget.of_seconds(0)
    )
    assert not found.tried.any()
    assert np.isneginf(found.lower).all()
    assert found.points.shape == (0, 2)


def small_of(query: Query, options: SmallOptions) -> tuple[SplitProblem, SmallPrograms]:
    bounds = LinearVerifier(query).activations(Budget())
    problem = split_problem(query, bounds, np.arange(query.prop.clauses))
    assert problem is not None
    return problem, SmallPrograms(query, problem, bounds, options)


@pytest.mark.parametrize("kind", ["dense", "residual", "convolutional"])
def test_small_programs_close_what_enumeration_proves(kind: str, rng: np.random.Generator) -> None:
    # Together the parts prove what holds on all of them, and no more.
    for case in cases(rng, RELU_KINDS[kind], 1, clauses=(1,)):
        problem, small = small_of(case.query, SmallOptions(programs=1000))
        units = np.arange(min(2, problem.units))
        closed = []
        for signs in product([-1, 1], repeat=len(units)):
            closed.append(small.close(0, units, np.array(signs), Budget.of_seconds(60))[0])
        assert all(closed) == (case.margin > 0)
        assert not small.close(0, units, np.ones(len(units), int), Budget.of_seconds(0))[0]


@pytest.mark.parametrize("clauses", [(1, 1), (2,)])
def test_trees_with_small_programs_decide_what_enumeration_decides(
    clauses: tuple[int, ...], rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(
        finish.SmallWorth,
        "wanted",
        lambda self, deficit, *_, **__: np.ones(len(deficit), bool),
    )
    monkeypatch.setattr(finish.SmallWorth, "learn", lambda self, s, closed: tried.append(closed))
    lazy = AscentOptions(iterations=2, patience=2)
    options = BranchOptions(batch=4, root=lazy, children=lazy)
    for case in cases(rng, RELU_KINDS["dense"], 1, clauses=clauses):
        problem, small = small_of(case.query, SmallOptions(units=3, programs=6))
        search = BranchAndBound(problem, options, lambda points: False, small=small)
        outcome = search.run(Budget.of_seconds(60))
        assert outcome.accounting.balanced
        assert bool((outcome.lower > 0).all()) == (case.margin > 0)
        assert (outcome.lower <= np.where(np.array(case.margins) > 0, np.inf, case.margins)).all()
    assert any(tried) == (len(clauses) == 2)  # a clause of two rows has no program


def test_programs_are_tried_where_they_were_faster() -> None:
    worth, open_, deficit = SmallWorth(), np.array([3, 9]), np.array([1.0, 1.0])
    assert not worth.wanted(deficit, open_, 0.1, 1e-3, 0)[1]
    assert worth.wanted(deficit, open_, 0.1, 1e-3, 100).tolist() == [True, False]
    worth.learn(0.1, closed=True)  # 2^10 domains of a millisecond are more, 2^4 are less
    assert worth.wanted(deficit, open_, 0.1, 1e-3, 100).tolist() == [False, True]
    worth.learn(5.0, closed=False)
    assert not worth.wanted(deficit, open_, 0.1, 1e-3, 100).any()
