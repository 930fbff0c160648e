"""Input splitting decides what enumeration decides, and loses no part of the box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from branching_cases import RELU_KINDS, cases
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box
from closegap.testing import networks
from closegap.testing.enumeration import clause_margin
from closegap.verify.incomplete import LinearVerifier
from closegap.verify.input_split import InputSplit, InputSplitOptions, InputSplitOutcome
from tiny_networks import dense, pooled

KINDS: dict[str, Callable[[np.random.Generator], Network]] = {
    **{k: RELU_KINDS[k] for k in ("dense", "leaky", "narrow residual", "residual")},
    "pooled": pooled,
}


def search(
    query: Query,
    *,
    seconds: float = 30.0,
    nodes: int | None = None,
    offered: list[np.ndarray] | None = None,
) -> tuple[InputSplitOutcome, bool]:
    region = query.region
    assert isinstance(region, Box)
    hits = []

    def judge(points: np.ndarray) -> bool:
        if offered is not None:
            offered.append(points)
        inside = np.clip(points, region.lower, region.upper)
        for clause in range(query.prop.clauses):
            if (clause_margin(query, clause, inside) < 0).any():
                hits.append(clause)
        return bool(hits)

    clauses = np.arange(query.prop.clauses)
    options = InputSplitOptions(batch=256, first=4)
    split = InputSplit(LinearVerifier(query), clauses, options, judge)
    budget = replace(Budget.of_seconds(seconds), nodes=nodes)
    return split.run(budget), bool(hits)


@pytest.mark.parametrize("clauses", [(1, 1), (2,), (1, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_verdicts_agree_with_enumeration(
    kind: str, clauses: tuple[int, ...], rng: np.random.Generator
) -> None:
    for case in cases(rng, KINDS[kind], 1, clauses=clauses):
        outcome, hit = search(case.query)
        assert outcome.broken == hit == (case.margin < 0)
        if case.margin > 0:
            assert outcome.open == 0
            assert np.isposinf(outcome.lower).all()
        else:
            assert (outcome.lower[np.array(case.margins) < 0] <= 0).all()


def test_bounds_of_an_unfinished_search_hold(rng: np.random.Generator) -> None:
    for case in cases(rng, KINDS["dense"], 1, radius=2.0):
        outcome, _ = search(case.query, seconds=0.05)
        margins = np.array(case.margins)
        open_ = np.isfinite(outcome.lower)
        assert (outcome.lower[open_] <= margins[open_]).all()
        if outcome.open == 0 and not outcome.broken:
            assert case.margin > 0


def test_fixed_inputs_stay_fixed(rng: np.random.Generator) -> None:
    for case in cases(rng, lambda r: dense(r, [4, 5, 3], ops.Relu()), 1, fixed=2):
        offered: list[np.ndarray] = []
        outcome, hit = search(case.query, offered=offered)
        box = case.query.region
        fixed = box.lower == box.upper
        assert fixed.sum() == 2
        for points in offered:
            assert (points[:, fixed] == box.lower[fixed]).all()
            assert (points >= box.lower).all()
            assert (points <= box.upper).all()
        assert hit == (case.margin < 0)
        assert outcome.broken == hit


def test_no_time(rng: np.random.Generator) -> None:
    case = next(cases(rng, KINDS["dense"], 1))
    outcome, _ = search(case.query, seconds=0)
    assert np.isneginf(outcome.lower).all()
    assert outcome.open == 1


def test_no_more_boxes_than_allowed(rng: np.random.Generator) -> None:
    for case in cases(rng, KINDS["dense"], 3, radius=2.0):
        outcome, _ = search(case.query, nodes=3)
        assert outcome.boxes <= 3
        assert outcome.full == (outcome.open > 0 and outcome.boxes == 3)
        assert outcome.depth <= 2
        margins = np.array(case.margins)
        assert (outcome.lower[np.isfinite(outcome.lower)] <= margins.max()).all()


def test_the_general_way_agrees_with_the_chain(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for case in cases(rng, KINDS["dense"], 2):
        fast, fast_hit = search(case.query)
        with monkeypatch.context() as patch:
            patch.setattr("closegap.verify.box_bounds.box_chain", lambda *_: None)
            slow, slow_hit = search(case.query)
        assert fast_hit == slow_hit == (case.margin < 0)
        assert (fast.open == 0) == (slow.open == 0) or fast_hit


@pytest.mark.parametrize("kind", ["dense", "pooled"])
def test_the_same_boxes_in_every_run_with_a_node_limit(kind: str, rng: np.random.Generator) -> None:
    for case in cases(rng, KINDS[kind], 1, radius=2.0):
        one, two = ([], [])
        runs = [search(case.query, nodes=50, offered=points)[0] for points in (one, two)]
        assert runs[0].boxes == runs[1].boxes
        assert np.array_equal(runs[0].lower, runs[1].lower)
        assert len(one) == len(two)
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_lattices_take_fewer_boxes_than_their_relus(
    side: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = networks.random_lattice(rng, 2, groups=4, pieces=4)
    points = torch.as_tensor(rng.uniform(-1, 1, (20_000, 2)))
    least = float((side * TorchNetwork(network, dtype=torch.float64)(points)).min())
    boxes = {}
    for gap in (0.02, -0.02):
        prop = Property(
            np.array([[side]]), np.array([gap - least]), np.array([0]), True, ("threshold",)
        )
        query = Query(network, Box(-np.ones(2), np.ones(2)), prop)
        fast, fast_hit = judged(query)
        with monkeypatch.context() as patch:
            patch.setattr("closegap.bounds.lattice.lattice", lambda *_: None)
            slow, slow_hit = judged(query)
        assert fast_hit == slow_hit == (gap < 0)
        assert (fast.open == 0) == (slow.open == 0) == (gap > 0)
        boxes[gap] = (fast.boxes, slow.boxes)
    assert boxes[0.02][0] <= boxes[0.02][1]


def judged(query: Query) -> tuple[InputSplitOutcome, bool]:
    """Like `search`, with points evaluated instead of enumerated regions."""
    network = TorchNetwork(query.network, dtype=torch.float64)
    hits = []

    def judge(points: np.ndarray) -> bool:
        margins = query.prop.margins(network(torch.as_tensor(points)).numpy())
        hits.extend(margins[margins < 0])
        return bool(hits)

    split = InputSplit(LinearVerifier(query), np.arange(1), InputSplitOptions(), judge)
    return split.run(Budget.of_seconds(30)), bool(hits)


def test_attacks_come_when_the_boxes_have_doubled(rng: np.random.Generator) -> None:
    case = next(c for c in cases(rng, KINDS["dense"], 1, radius=2.0) if c.margin > 0)
    options = InputSplitOptions(batch=4, first=4, attacked=4)
    for hit in (10, 1):
        bounded: list[int] = []

        def attack(number: int, hit: int = hit, bounded: list[int] = bounded) -> bool:
            bounded.append(number)
            return number == hit

        linear = LinearVerifier(case.query)
        clauses = np.arange(case.query.prop.clauses)
        split = InputSplit(linear, clauses, options, lambda _: False, attack)
        outcome = split.run(Budget(nodes=200))
        assert bounded == list(range(len(bounded)))
        assert outcome.broken == (bounded[-1:] == [hit])
        if outcome.broken:
            assert 8 <= outcome.boxes < 16
        else:
            assert 4 << (len(bounded) - 1) <= max(4, outcome.boxes) < 4 << len(bounded)


@pytest.mark.parametrize("kind", ["dense", "pooled"])
def test_nothing_is_offered_where_nothing_may_be(kind: str, rng: np.random.Generator) -> None:
    offered: list[np.ndarray] = []

    def judge(points: np.ndarray) -> bool:
        offered.append(points)
        return False

    options = InputSplitOptions(batch=16, first=4, offered=0)
    for case in cases(rng, KINDS[kind], 1, clauses=(1,)):
        budget = replace(Budget.of_seconds(30.0), nodes=200)
        split = InputSplit(LinearVerifier(case.query), np.arange(1), options, judge)
        outcome = split.run(budget)
        assert outcome.boxes > 0
    assert not offered
