"""What a tree learns from closed domains is true where it is used, and loses no domain."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from test_bab import LAZY, check, problem_of
from test_bab_multineuron import Kept

from branching_cases import RELU_KINDS, cases
from closegap.core.budget import Budget
from closegap.search.tree import Tree
from closegap.testing.enumeration import clause_margin
from closegap.verify.bab.learning import Learning, LearningOptions
from closegap.verify.bab.nogoods import NoGoods
from closegap.verify.bab.search import BranchAndBound

EAGER = replace(LAZY, learning=LearningOptions(after=1, share=1e9))


def test_no_goods_say_what_sets_say(rng: np.random.Generator) -> None:
    signs = rng.integers(-1, 2, (60, 5)).astype(np.int8)
    goods = NoGoods.none(5).joined(NoGoods(signs[:20], rng.integers(0, 2, 20)), 100)
    sets = [{(u, s) for u, s in enumerate(row) if s} for row in goods.signs.tolist()]
    for i, one in enumerate(sets):
        assert not any(
            j != i and other <= one and goods.root[i] == goods.root[j]
            for j, other in enumerate(sets)
        )
    root = rng.integers(0, 2, 40)
    found, implied = goods.judge(root, signs[20:]), 0
    for number, row in enumerate(signs[20:].tolist()):
        held = {(u, s) for u, s in enumerate(row) if s}
        against = {(u, -s) for u, s in held}
        own = [s for s, r in zip(sets, goods.root, strict=True) if r == root[number]]
        assert found.closed[number] == any(s <= held for s in own)
        last = [s - held for s in own if len(s - held) == 1 and not s & against]
        if found.closed[number] or not last:
            assert found.unit[number] == -1
        else:
            assert {(int(found.unit[number]), int(found.sign[number]))} in last
            implied += 1
    assert found.closed.any()
    assert implied


def test_the_shortest_of_each_root_are_kept() -> None:
    signs = np.array([[1, 1, 1, 0], [0, 0, 1, 1], [0, -1, 1, 1], [-1, 0, 0, 0]], np.int8)
    kept = NoGoods.none(4).joined(NoGoods(signs, np.array([0, 0, 1, 1])), 1)
    assert sorted(zip(kept.root.tolist(), kept.lengths.tolist(), strict=True)) == [(0, 2), (1, 1)]


@pytest.mark.parametrize("room", [None, 3])
def test_implied_signs_are_splits_with_one_half_closed(
    room: int | None, rng: np.random.Generator
) -> None:
    problem = problem_of(next(cases(rng, RELU_KINDS["wide"], 1)).query)
    learning, tree = Learning(problem, LearningOptions()), Tree()
    tree.plant(2)
    leaves = tree.split(np.array([0, 1]), np.array([0, 0]))
    signs = np.zeros((3, problem.units), np.int8)
    signs[0, :2] = 1, -1
    signs[1, 1:3] = 1, -1
    signs[2, 0] = -1
    learning.known = NoGoods(signs, np.zeros(3, np.int64))
    left, owner = learning.propagate(tree, leaves, np.arange(4), room)
    assert owner.tolist() == [0, 1, 3]  # the other half of the first root is closed
    path, made = tree.paths(left), 2 if room is None else 1
    assert path.units[0, : made + 1].tolist() == [2, 1, 0][-made - 1 :]
    assert (path.signs[0, : made + 1] == 1).all()
    assert (path.units[1:, 0] == 0).all()
    count = tree.accounting()
    assert count.balanced
    assert count.closed == learning.saved == made + 1
    assert len(tree) == 6 + 2 * made


@pytest.mark.parametrize("kind", ["wide", "narrow residual"])
def test_trees_that_learn_agree_with_enumeration(kind: str, rng: np.random.Generator) -> None:
    for case in islice(cases(rng, RELU_KINDS[kind], 1, clauses=(2, 1), radius=0.8), 2):
        check(case, EAGER)


def test_no_input_under_a_no_good_breaks_its_clause(rng: np.random.Generator) -> None:
    learned = 0
    for case in islice(cases(rng, RELU_KINDS["wide"], 2, clauses=(1, 2), radius=0.8), 2):
        problem = problem_of(case.query)
        search = BranchAndBound(problem, EAGER, lambda points: False)
        search.run(Budget.of_seconds(30, nodes=90))
        goods = search.learned
        learned += len(goods)
        box = case.query.region
        points = rng.uniform(box.lower, box.upper, (20_000, *box.lower.shape))
        values = problem.exact.values(problem.exact.tensor(points.reshape(len(points), -1)))
        units = np.concatenate(
            [values[layer.feed].flatten(1)[:, layer.indices].numpy() for layer in problem.layers],
            axis=1,
        )
        for signs, root in zip(goods.signs, goods.root, strict=True):
            inside = (units * signs >= 0).all(axis=1)
            margins = clause_margin(case.query, int(problem.clauses[root]), points[inside])
            assert (margins > 0).all()
    assert learned


def test_a_tree_that_learns_goes_on_exactly(rng: np.random.Generator) -> None:
    case = next(cases(rng, RELU_KINDS["wide"], 1, radius=0.8))
    problem, budget, kept = problem_of(case.query), Budget.of_seconds(60, nodes=90), Kept()
    outcome = BranchAndBound(problem, EAGER, lambda points: False).run(budget, kept)
    state = next(s for s in kept.states if len(s["learned"]))
    again = BranchAndBound(problem, EAGER, lambda points: False)
    again.resume(state)
    other = again.run(budget)
    assert other.accounting == outcome.accounting
    assert (other.lower == outcome.lower).all()
    for damage in (
        {"learned": state["learned"][:, 1:]},
        {"learned": state["learned"] * 2},
        {"learned_root": state["learned_root"] + 99},
        {"learned_cost": state["learned_cost"][1:]},
    ):
        with pytest.raises(ValueError, match="no-goods are damaged"):
            Learning(problem, LearningOptions()).restore({**state, **damage})
