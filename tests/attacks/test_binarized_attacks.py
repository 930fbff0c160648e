"""Attacks on binarized networks against enumeration, and their moves against plain evaluation."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from closegap.attacks import cascade
from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.binarized.iprop import IProp, IPropOptions, published
from closegap.attacks.binarized.layer_lanes import LayerLanes, by_lanes
from closegap.attacks.binarized.layer_task import LayerTask, by_descent, by_program, by_search
from closegap.attacks.binarized.milp import sign_program
from closegap.attacks.binarized.moves import push
from closegap.attacks.binarized.problem import BinarizedProblem, binarized_problem
from closegap.attacks.binarized.soft_network import SoftNetwork, soft_network
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackInterrupted, AttackOutcome
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.graph.binarized.first_layer import FirstSigns
from closegap.graph.binarized.intervals import interval_layer
from closegap.graph.binarized.linear_form import LinearSums, patch_matrix
from closegap.graph.network import Network
from closegap.mip.model import SolveOptions, Status
from closegap.mip.registry import choose
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


@pytest.mark.parametrize("name", ["ste-pgd", "bit-search", "iprop", "milp"])
def test_margins_are_true_and_members(rng: np.random.Generator, name: str) -> None:
    method = make_attack(name, AttackOptions(steps=10, restarts=3))
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
    np.testing.assert_array_equal(problem.bits(sums), FirstSigns(first)(points))
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


def test_the_program_has_the_enumerated_optimum_and_every_input_as_a_point() -> None:
    solver, _ = choose("mip")
    for seed in range(3):
        q = tiny(np.random.default_rng(seed), eps=0.2)
        problem = problem_of(q)
        middle = (problem.lower + problem.upper) / 2
        for clause in range(q.prop.clauses):
            program = sign_program(problem, clause, Budget())
            assert program is not None
            assert sign_program(problem, clause, Budget.of_seconds(0)) is None
            assert program.model.violation(program.start(middle)) < 1e-9
            claim = solver.solve(program.model, SolveOptions(time_limit=10))
            assert claim.objective == pytest.approx(least_clause_margin(q, clause), abs=1e-5)


def test_the_feasibility_program_agrees_with_the_optimum() -> None:
    solver, _ = choose("mip")
    seen = set()
    for seed in range(4):
        q = tiny(np.random.default_rng(seed), eps=0.2)
        program = sign_program(problem_of(q), 0, Budget(), least=-1e-3)
        assert program is not None
        claim = solver.solve(program.model, SolveOptions(time_limit=10))
        broken = least_clause_margin(q, 0) < -1e-3
        assert (claim.status is Status.INFEASIBLE) == (not broken)
        assert (claim.point is not None) == broken
        seen.add(broken)
    assert seen == {True, False}


def random_task(rng: np.random.Generator, *, integer: bool) -> LayerTask:
    count = 8
    slope = rng.choice([-1.0, 1.0], size=(count, 6))
    reference = rng.choice([-1.0, 1.0], size=count)
    slack = reference @ slope + 1
    return LayerTask(
        slope, slack, np.ones(6), reference, -np.ones(count), np.ones(count), integer=integer
    )


def test_layer_solvers_against_all_values(rng: np.random.Generator) -> None:
    corners = 2.0 * ((np.arange(256)[:, None] >> np.arange(8)) & 1) - 1
    for _ in range(5):
        task = random_task(rng, integer=True)
        most = max(task.worth(corner) for corner in corners)
        searched = by_search(task, rng)
        exact = by_program(task, 5.0, searched)
        assert task.worth(task.reference) <= task.worth(searched) <= most
        assert task.worth(exact) == pytest.approx(most)
        assert int(task.worth(searched)) >= int(most) - 1


def test_layer_solvers_keep_inputs_in_their_ranges(rng: np.random.Generator) -> None:
    task = random_task(rng, integer=False)
    for values in (by_search(task, rng), by_program(task, 5.0, task.reference)):
        assert (values >= task.lower).all() and (values <= task.upper).all()
        assert task.worth(values) >= task.worth(task.reference)


def test_integer_intervals_hold_and_are_attained(rng: np.random.Generator) -> None:
    problem = problem_of(tiny(rng))
    layer, evaluated = problem.forward.network.hidden[0], problem.forward.layers[0]
    rows = interval_layer(layer)
    known = rng.choice([-1, 0, 1], size=(1, layer.patches.size))
    known[0, :2] = 0
    corners = 2 * ((np.arange(64)[:, None] >> np.arange(6)) & 1) - 1
    inside = corners[((known == 0) | (corners == known)).all(axis=1)]
    sums = inside @ patch_matrix(layer.patches).toarray()
    low, high = rows.sums(known)
    np.testing.assert_array_equal(low[0], sums.min(axis=0))
    np.testing.assert_array_equal(high[0], sums.max(axis=0))
    signs = evaluated.signs(inside > 0)
    fixed = rows.signs(known)[0]
    np.testing.assert_array_equal(fixed == 1, signs.all(axis=0))
    np.testing.assert_array_equal(fixed == -1, ~signs.any(axis=0))


def test_descent_meets_what_the_program_meets(rng: np.random.Generator) -> None:
    for _ in range(5):
        task = random_task(rng, integer=False)
        found = by_descent(task)
        exact = by_program(task, 5.0, found)
        assert (found >= task.lower).all() and (found <= task.upper).all()
        assert (
            int((task.at(found) >= task.gap).sum()) >= int((task.at(exact) >= task.gap).sum()) - 1
        )
        assert task.worth(found) >= task.worth(task.reference)


def test_iprop_without_gradients_starts_at_the_image(rng: np.random.Generator) -> None:
    q = tiny(rng, eps=0.2)
    outcome = IProp(IPropOptions(rounds=1, warm=None)).attack_query(q, Budget.of_seconds(2))
    assert q.center is not None
    clean = min(clause_margin(q, k, q.center[None])[0] for k in range(q.prop.clauses))
    assert outcome.margin <= clean + 1e-4
    stamps, margins = zip(*outcome.history, strict=True)
    assert sorted(stamps) == list(stamps) and sorted(margins, reverse=True) == list(margins)
    assert margins[-1] == outcome.margin


def soft_of(q: Query) -> tuple[BinarizedProblem, SoftNetwork]:
    problem = problem_of(q)
    network = soft_network(problem)
    assert network is not None
    return problem, network


def test_soft_networks_have_the_margins_of_true_signs_and_their_own_gradients() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        q = tiny(rng, eps=0.15)
        problem, network = soft_of(q)
        share = rng.random((12, 7))
        points = (problem.lower + share * (problem.upper - problem.lower)).astype(np.float32)
        clause = rng.integers(q.prop.clauses, size=12)
        softness = np.full(12, 0.5, dtype=np.float32)
        hard = np.arange(12) < 6
        margins, gradient = network.margins(points, clause, softness, hard)
        true = np.stack([clause_margin(q, k, points) for k in range(q.prop.clauses)], axis=1)
        np.testing.assert_allclose(margins, true, atol=1e-4)
        expected = soft_slope(network, points[6:], clause[6:], 0.5)
        np.testing.assert_allclose(gradient[6:], expected, rtol=1e-3, atol=1e-4)


def soft_slope(
    network: SoftNetwork, points: np.ndarray, clause: np.ndarray, softness: float
) -> np.ndarray:
    """The same derivative by torch; a clause of these properties has one row."""
    x = torch.tensor(points, requires_grad=True)
    values = x
    for slope, offset, width in zip(network.slopes, network.offsets, network.widths, strict=True):
        slack = values @ torch.from_numpy(slope) + torch.from_numpy(offset)
        values = torch.tanh(slack / (width * softness))
    (values * torch.from_numpy(network.rows[clause])).sum().backward()
    assert x.grad is not None
    return x.grad.numpy()


@cache
def enumerated() -> list[tuple[Query, float]]:
    queries = [tiny(np.random.default_rng(s), eps=e) for s, e in ((0, 0.1), (1, 0.1), (2, 0.01))]
    return [(q, least(q)) for q in queries]


@pytest.mark.parametrize("name", ["soft-descent", "iprop", "sign-portfolio"])
def test_what_enumeration_breaks_is_broken_and_nothing_else(name: str) -> None:
    broken, found = 0, 0
    for q, most in enumerated():
        method = make_attack(name, AttackOptions(steps=20, restarts=8))
        outcome = method.attack_query(q, Budget.of_seconds(60))
        possible = most < -1e-3
        assert outcome.margin >= most - 1e-4
        if outcome.margin < -1e-3:
            assert possible and contains(q.region, outcome.points[0])
            true = min(clause_margin(q, k, outcome.points[:1])[0] for k in range(q.prop.clauses))
            assert true == pytest.approx(outcome.margin, abs=1e-4)
        broken, found = broken + possible, found + (outcome.margin < -1e-3)
    assert broken and found == broken


def test_sums_of_mostly_empty_matrices(rng: np.random.Generator) -> None:
    dense = rng.normal(size=(40, 30)) * (rng.random((40, 30)) < 0.05)
    sums = LinearSums(csr_array(dense), rng.normal(size=30))
    points, change = rng.normal(size=(2, 40)), rng.normal(size=(2, 40))
    np.testing.assert_allclose(sums.at(points), points @ dense + sums.constant)
    np.testing.assert_allclose(sums.rise(csr_array(change)), change @ dense, atol=1e-12)


def test_lanes_of_a_layer_against_all_values(rng: np.random.Generator) -> None:
    corners = 2.0 * ((np.arange(256)[:, None] >> np.arange(8)) & 1) - 1
    slope = rng.choice([-1.0, 1.0], size=(8, 6))
    reference = rng.choice([-1.0, 1.0], size=8)
    targets = rng.choice([-1.0, 0.0, 1.0], size=(20, 6))
    worth = rng.uniform(0.5, 2.0, size=(20, 6))
    layer = LayerTask(
        slope, reference @ slope + 1, np.ones(6), reference, -np.ones(8), np.ones(8), integer=True
    )
    task = LayerLanes(layer, targets, worth)
    values = by_lanes(task, 60)
    assert (np.abs(values) == 1).all()
    score = task.score(values, task.at(values))
    start = np.tile(reference, (20, 1))
    assert (score >= task.score(start, task.at(start))).all()
    every = [replace(task, targets=np.tile(t, (256, 1)), worth=np.tile(w, (256, 1)))
             for t, w in zip(targets, worth, strict=True)]  # fmt: skip
    most = np.array([t.score(corners, t.at(corners)).max() for t in every])
    assert (score <= most + 1e-9).all()
    assert np.median(most - score) < 0.5


def test_the_published_propagation_is_of_one_set_without_a_warm_start() -> None:
    sizes = published()
    assert (sizes.lanes, sizes.share, sizes.patience, sizes.warm) == (1, 0.05, 5, None)
    q = tiny(np.random.default_rng(1), eps=0.2)
    outcome = IProp(replace(sizes, rounds=3, targets=1)).attack_query(q, Budget.of_seconds(5))
    assert outcome.margin >= least(q) - 1e-4


@pytest.mark.parametrize(
    "name", ["bit-search", "iprop", "milp", "sign-portfolio", "soft-descent", "ste-pgd"]
)
def test_an_interrupted_search_hands_over_what_it_found(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    taken, take = [], Harvest.take

    def taken_twice(self: Harvest, point: np.ndarray) -> float:
        taken.append(point)
        if len(taken) == 2:
            raise KeyboardInterrupt
        return take(self, point)

    monkeypatch.setattr(Harvest, "take", taken_twice)
    q = tiny(np.random.default_rng(0))
    q = replace(q, prop=replace(q.prop, offsets=q.prop.offsets + 100.0))
    with pytest.raises(AttackInterrupted) as stopped:
        make_attack(name, AttackOptions(steps=5)).attack_query(q, Budget.of_seconds(5))
    (outcome,) = stopped.value.outcomes
    assert outcome.method == name and not outcome.finished and len(outcome.points)


def test_an_outcome_is_not_lost_while_it_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    q = tiny(np.random.default_rng(0))
    found = AttackOutcome("other", q.region.lower[None], np.ones(1), 1, True)
    harvest, take = Harvest(q), Harvest.take

    def interrupted(self: Harvest, point: np.ndarray) -> float:
        monkeypatch.setattr(Harvest, "take", take)
        raise KeyboardInterrupt

    monkeypatch.setattr(Harvest, "take", interrupted)
    with pytest.raises(AttackInterrupted) as stopped, harvest.kept("test"):
        harvest.add(found)
    np.testing.assert_array_equal(stopped.value.outcomes[0].points, found.points)


def test_an_interrupted_stage_keeps_what_the_stages_before_it_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q, runs = tiny(np.random.default_rng(0)), []
    q = replace(q, prop=replace(q.prop, offsets=q.prop.offsets + 100.0))

    def run_once(*arguments: Any) -> tuple[AttackOutcome, ...]:
        runs.append(run(*arguments))
        if len(runs) == 2:
            raise AttackInterrupted(runs[1])
        return runs[0]

    monkeypatch.setattr(cascade, "run", run_once)
    with pytest.raises(AttackInterrupted) as stopped:
        make_attack("ste-pgd", AttackOptions(steps=5)).attack_query(q, Budget.of_seconds(5))
    points = stopped.value.outcomes[0].points
    assert all(point in points for (outcome,) in runs for point in outcome.points)


def test_on_balls_there_are_runs_of_gradients(rng: np.random.Generator) -> None:
    net = random_sign(rng, [6, 5, 3])
    ball = robustness(net, np.full(6, 0.5), 0, 0.3, norm=2)
    for name in ("soft-descent", "sign-portfolio"):
        outcome = make_attack(name, AttackOptions(steps=5)).attack_query(ball, Budget.of_seconds(1))
        assert len(outcome.points) and all(contains(ball.region, p) for p in outcome.points)
