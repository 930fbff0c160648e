"""Branch and bound over smooth activations and signs: sound, and complete up to a tolerance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from closegap.bounds.optimise import AscentOptions
from closegap.branching import BranchingOptions
from closegap.core.budget import Budget
from closegap.core.numerics import FINEST_CUT
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.specs.query import Query
from closegap.testing.enumeration import clause_margin, least_clause_margin
from closegap.verify.bab import units as units_module
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.outcome import BranchOutcome
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.bab.units import cut_points, open_units
from closegap.verify.incomplete import LinearVerifier
from tiny_networks import dense, linear, network, query, samples


def mixed(rng: np.random.Generator) -> Network:
    """A ReLU, then a sigmoid, then a tanh layer, with a skip."""
    return network(
        Node(ops.Input(), (), (2,)),
        Node(linear(rng, 2, 3), (0,), (3,)),
        Node(ops.Relu(), (1,), (3,)),
        Node(linear(rng, 3, 3), (2,), (3,)),
        Node(ops.Sigmoid(), (3,), (3,)),
        Node(ops.Add(), (4, 2), (3,)),
        Node(linear(rng, 3, 2), (5,), (2,)),
        Node(ops.Tanh(), (6,), (2,)),
        Node(linear(rng, 2, 2), (7,), (2,)),
    )


KINDS: dict[str, Callable[[np.random.Generator], Network]] = {
    "sigmoid": lambda rng: dense(rng, [2, 4, 3, 2], ops.Sigmoid()),
    "tanh": lambda rng: dense(rng, [2, 3, 3, 2], ops.Tanh()),
    "sign": lambda rng: dense(rng, [2, 5, 4, 3], ops.Sign(1)),
    "mixed": mixed,
}
#: Few steps of the ascent: more splits.
LAZY = BranchOptions(
    batch=16,
    root=AscentOptions(iterations=3),
    children=AscentOptions(iterations=3, patience=2),
    nodes=1500,
)


def problem_of(asked: Query) -> SplitProblem:
    bounds = LinearVerifier(asked).activations(Budget())
    problem = split_problem(asked, bounds, np.arange(asked.prop.clauses))
    assert problem is not None
    return problem


def moved(asked: Query, by: float) -> Query:
    return replace(asked, prop=replace(asked.prop, offsets=asked.prop.offsets + by))


def search(asked: Query, options: BranchOptions) -> tuple[BranchOutcome, bool]:
    broken = False

    def judge(points: np.ndarray) -> bool:
        nonlocal broken
        inside = np.clip(points, asked.region.lower, asked.region.upper)
        broken |= bool((clause_margin(asked, 0, inside) < 0).any())
        return broken

    outcome = BranchAndBound(problem_of(asked), options, judge).run(Budget.of_seconds(20))
    assert outcome.accounting.balanced
    return outcome, broken


def sampled_least(asked: Query) -> float:
    side = np.linspace(0, 1, 161)
    share = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    box = asked.region
    return float(clause_margin(asked, 0, box.lower + share * (box.upper - box.lower)).min())


@pytest.mark.parametrize("cut", ["middle", "inflection"])
@pytest.mark.parametrize("kind", KINDS)
def test_trees_agree_with_dense_sampling(kind: str, cut: str, rng: np.random.Generator) -> None:
    options = replace(LAZY, branching=BranchingOptions(cut=cut))
    closed = 0
    for _ in range(2):
        asked = query(rng, KINDS[kind](rng), radius=0.5)
        least = sampled_least(asked)
        spread = 0.05
        above, _ = search(moved(asked, spread - least), options)
        closed += above.finished
        below, _ = search(moved(asked, -spread - least), options)
        assert not below.finished
        if not below.broken:
            assert below.lower[0] <= -spread + 1e-9
    assert closed


@pytest.mark.parametrize("kind", KINDS)
def test_domain_bounds_hold_on_their_points(kind: str, rng: np.random.Generator) -> None:
    asked = query(rng, KINDS[kind](rng), radius=1.0)
    problem = problem_of(asked)
    points = samples(rng, asked, 800)
    values = problem.exact.values(problem.exact.tensor(points))
    parts = [values[layer.feed].flatten(1)[:, layer.indices] for layer in problem.layers]
    heights = np.concatenate([p.numpy() for p in parts], axis=1)
    margins = clause_margin(asked, 0, points)
    smooth = kind != "sign"
    bounder = DomainBounder(problem, AscentOptions(iterations=12, goal=np.inf, split_rate=0.3))
    payload = None
    for depth in (0, 1, 2, 6, 12):
        inside = rng.integers(0, len(points), 20)
        units = rng.integers(0, problem.units, (20, depth))  # smooth units more than once
        value = np.take_along_axis(heights[inside], units, axis=1)
        levels = value + rng.normal(size=value.shape) * smooth - value * (not smooth)
        signs = np.where(value >= levels, 1, -1)
        batch = DomainBatch(np.zeros(20, np.int64), units, signs, payload, levels)
        found = bounder.bound(batch, Budget())
        payload = found.payload * rng.uniform(-1, 3, found.payload.shape).astype(np.float32)
        for domain in range(20):
            reached = heights[:, units[domain]]
            held = np.where(signs[domain] > 0, reached >= levels[domain], reached <= levels[domain])
            if kind == "sign":
                held = np.where(signs[domain] > 0, reached >= 0, reached < 0)
            held = held.all(axis=1)
            assert held.any()
            assert (margins[held] >= found.lower[domain]).all()


def test_sign_networks_are_decided_as_enumeration_decides(rng: np.random.Generator) -> None:
    for _ in range(4):
        asked = query(rng, KINDS["sign"](rng), radius=0.8)
        least = least_clause_margin(asked, 0)
        proved, broken = search(moved(asked, 0.01 - least), LAZY)
        assert proved.finished
        assert not broken
        open_, _ = search(moved(asked, -0.01 - least), LAZY)
        assert not open_.finished


def test_a_pre_activation_of_zero_belongs_to_the_upper_half() -> None:
    # sign(x) over [0, 1] and over [-1, 0]: only the first one is never below zero.
    net = network(
        Node(ops.Input(), (), (1,)),
        Node(ops.Linear(np.eye(1), np.zeros(1)), (0,), (1,)),
        Node(ops.Sign(1), (1,), (1,)),
    )
    rng = np.random.default_rng(0)
    asked = query(rng, net, radius=1.0)
    prop = replace(asked.prop, rows=np.ones((1, 1)), offsets=np.zeros(1))
    box = replace(asked.region, lower=-np.ones(1), upper=np.ones(1))
    problem = problem_of(replace(asked, prop=prop, region=box))
    bounder = DomainBounder(problem, AscentOptions())
    pair = DomainBatch(np.zeros(2, np.int64), np.zeros((2, 1), int), np.array([[1], [-1]]))
    lower = bounder.bound(pair, Budget()).lower
    assert lower == pytest.approx([1.0, -1.0], abs=1e-9)


def test_what_is_too_narrow_to_split_is_given_up(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units_module, "FINEST_CUT", 0.5)
    asked = query(rng, dense(rng, [2, 2, 2], ops.Sigmoid()), radius=1.0)
    low = moved(asked, -0.001 - sampled_least(asked))
    outcome = BranchAndBound(problem_of(low), LAZY, lambda points: False).run(Budget.of_seconds(20))
    assert outcome.accounting.stuck > 0
    assert not outcome.finished
    assert outcome.lower[0] <= -0.001


@pytest.mark.parametrize("op", [ops.Sigmoid(), ops.Tanh(), ops.Relu(), ops.Sign(1)])
def test_cuts_lie_inside_and_closed_units_stay_closed(op: ops.Op, rng: np.random.Generator) -> None:
    ends = torch.as_tensor(rng.normal(size=(2, 500))).sort(dim=0).values
    lower, upper = ends[0], ends[1] + 0.0
    open_ = open_units(op, lower, upper)
    for cut in ("middle", "inflection"):
        point = cut_points(op, lower, upper, cut)
        assert ((point > lower) & (point < upper))[open_].all()
    narrow = torch.full((3,), 0.7).double()
    assert not open_units(op, narrow, narrow + FINEST_CUT / 2).any()


def test_a_sign_of_zero_at_zero_is_refused(rng: np.random.Generator) -> None:
    asked = query(rng, dense(rng, [2, 3, 2], ops.Sign(0)))
    bounds = LinearVerifier(asked).activations(Budget())
    assert split_problem(asked, bounds, np.arange(1)) is None
