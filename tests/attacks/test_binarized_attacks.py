"""Attacks on binarized networks against enumeration, and their moves against plain evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from closegap.attacks.binarized.moves import push
from closegap.attacks.binarized.problem import BinarizedProblem, binarized_problem
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.graph.binarized.first_layer import first_signs
from closegap.graph.network import Network
from closegap.runtime.cache import compiled
from closegap.specs.query import Query, robustness
from closegap.specs.region import contains
from closegap.testing.enumeration import clause_margin, least_clause_margin
from closegap.testing.networks import random_mlp, random_sign


def tiny(rng: np.random.Generator, eps: float = 0.25) -> Query:
    net = random_sign(rng, [7, 6, 5, 3])
    image = rng.random(7).astype(np.float32)
    label = int(clean_outputs(net, image).argmax())
    return robustness(net, image, label, eps)


def clean_outputs(net: Network, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return compiled(net, torch.float64)(torch.from_numpy(image[None]).double()).numpy()[0]


def least(q: Query) -> float:
    return min(least_clause_margin(q, k) for k in range(q.prop.clauses))


def problem_of(q: Query) -> BinarizedProblem:
    problem = binarized_problem(q, "test")
    assert problem is not None
    return problem


@pytest.mark.parametrize("name", ["ste-pgd", "bit-search"])
def test_margins_are_true_and_members(rng: np.random.Generator, name: str) -> None:
    method = make_attack(name, AttackOptions(steps=10, restarts=3))
    for _ in range(2):
        q = tiny(rng)
        outcome = method.attack_query(q, Budget.of_seconds(2))
        assert len(outcome.points) and all(contains(q.region, p) for p in outcome.points)
        true = np.min([clause_margin(q, k, outcome.points) for k in range(q.prop.clauses)], axis=0)
        np.testing.assert_allclose(outcome.margins, true, atol=1e-4)
        assert outcome.margin >= least(q) - 1e-4


def test_bit_search_finds_the_least_margin_of_tiny_networks(rng: np.random.Generator) -> None:
    method = make_attack("bit-search", AttackOptions(steps=30, restarts=4))
    found = 0
    for seed in range(3):
        q = tiny(np.random.default_rng(seed), eps=0.15)
        outcome = method.attack_query(q, Budget.of_seconds(2))
        # An attack may end at the first counterexample.
        found += outcome.margin < 0 or outcome.margin <= least(q) + 1e-4
    assert found >= 2


def test_moves_keep_the_sums_and_the_box(rng: np.random.Generator) -> None:
    problem = problem_of(tiny(rng))
    share = rng.random((20, 7))
    points = problem.lower + share * (problem.upper - problem.lower)
    sums = problem.sums.at(points)
    first = problem.forward.network.first
    np.testing.assert_array_equal(problem.bits(sums), first_signs(first, points))
    units = problem.free[rng.integers(len(problem.free), size=20)]
    moves = push(problem, points, sums, units, rng)
    after = points + moves.change.toarray()
    assert (after >= problem.lower - 1e-12).all() and (after <= problem.upper + 1e-12).all()
    np.testing.assert_allclose(moves.sums, problem.sums.at(after), atol=1e-9)
    rows = np.arange(20)
    flipped = problem.bits(sums)[rows, units] != problem.bits(moves.sums)[rows, units]
    assert flipped.any()


def test_scores_are_margins_of_the_network(rng: np.random.Generator) -> None:
    q = tiny(rng)
    problem = problem_of(q)
    points = problem.lower + rng.random((10, 7)) * (problem.upper - problem.lower)
    margins, _ = problem.scores(problem.bits(problem.sums.at(points)))
    true = np.stack([clause_margin(q, k, points) for k in range(q.prop.clauses)], axis=1)
    np.testing.assert_allclose(margins, true, atol=1e-9)


def test_other_networks_are_refused_with_the_reason(rng: np.random.Generator) -> None:
    q = robustness(random_mlp(rng, [4, 5, 3]), np.full(4, 0.5), 0, 0.1)
    with pytest.raises(OptionError, match=r"bit-search.*no signs"):
        make_attack("bit-search").attack_query(q, Budget.of_seconds(1))


def test_on_balls_the_gradient_attack_is_what_is_left(rng: np.random.Generator) -> None:
    net = random_sign(rng, [6, 5, 3])
    q = robustness(net, np.full(6, 0.5), 0, 0.3, norm=2)
    outcome = make_attack("bit-search").attack_query(q, Budget.of_seconds(2))
    assert all(contains(q.region, p) for p in outcome.points)
