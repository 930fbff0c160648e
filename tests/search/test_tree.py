"""The tree keeps account of every node, and agrees with a plain model of Python objects."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from closegap.search.tree import NodeState, Tree


@dataclass
class Plain:
    """One node of the model."""

    root: int
    path: tuple[tuple[int, int, float], ...]
    lower: float
    state: NodeState = NodeState.OPEN


def compare(tree: Tree, model: list[Plain], roots: int) -> None:
    states = [n.state for n in model]
    account = tree.accounting()
    assert (len(tree), account.created, account.roots) == (len(model), len(model), roots)
    assert account.split == states.count(NodeState.SPLIT)
    assert account.closed == states.count(NodeState.CLOSED)
    assert account.open == states.count(NodeState.OPEN)
    assert account.stuck == states.count(NodeState.STUCK)
    assert account.depth == max((len(n.path) for n in model), default=0)
    assert account.weight == roots
    assert account.balanced
    assert list(tree.open_nodes()) == [i for i, s in enumerate(states) if s is NodeState.OPEN]
    everything = np.arange(len(model))
    assert list(tree.lower(everything)) == [n.lower for n in model]
    assert list(tree.root(everything)) == [n.root for n in model]
    left = [n for n in model if n.state in (NodeState.OPEN, NodeState.STUCK)]
    for root, least in enumerate(tree.least_lower()):
        assert least == min((n.lower for n in left if n.root == root), default=np.inf)
    paths = tree.paths(everything)
    for node, units, signs, points in zip(
        model, paths.units, paths.signs, paths.points, strict=True
    ):
        used = len(node.path)
        assert [*zip(units[:used], signs[:used], points[:used], strict=True)] == [*node.path]
        assert (units[used:] == -1).all()
        assert (signs[used:] == 0).all()
        assert (points[used:] == 0).all()


def split(
    tree: Tree,
    model: list[Plain],
    chosen: list[int],
    units: list[int],
    points: list[float] | None,
) -> None:
    levels = None if points is None else np.array(points)
    children = tree.split(np.array(chosen), np.array(units), levels)
    assert list(children) == list(range(len(model), len(model) + 2 * len(chosen)))
    for sign in (1, -1):
        for index, unit, point in zip(chosen, units, points or [0.0] * len(units), strict=True):
            parent = model[index]
            parent.state = NodeState.SPLIT
            model.append(Plain(parent.root, ((unit, sign, point), *parent.path), parent.lower))


def raise_lower(tree: Tree, model: list[Plain], chosen: list[int], values: list[float]) -> None:
    tree.raise_lower(np.array(chosen), np.array(values))
    for index, value in zip(chosen, values, strict=True):
        if value > model[index].lower:
            model[index].lower = value


def leave(tree: Tree, model: list[Plain], chosen: list[int], step: str) -> None:
    state = NodeState.CLOSED if step == "close" else NodeState.STUCK
    (tree.close if step == "close" else tree.give_up)(np.array(chosen))
    for index in chosen:
        model[index].state = state


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_histories_agree_with_the_model(data: st.DataObject) -> None:
    roots = data.draw(st.integers(1, 3))
    tree = Tree(capacity=data.draw(st.sampled_from([1, 4, 64])))
    start = np.array(data.draw(st.lists(st.floats(-9, 9), min_size=roots, max_size=roots)))
    tree.add_roots(start)
    model = [Plain(i, (), float(v)) for i, v in enumerate(start)]
    for _ in range(data.draw(st.integers(0, 12))):
        open_ = [i for i, n in enumerate(model) if n.state is NodeState.OPEN]
        if not open_:
            break
        chosen = data.draw(st.lists(st.sampled_from(open_), min_size=1, max_size=5, unique=True))
        step = data.draw(st.sampled_from(["split", "split", "close", "give up", "raise"]))
        if step == "split":
            units = [data.draw(st.integers(0, 99)) for _ in chosen]
            points = [data.draw(st.floats(-9, 9)) for _ in chosen]
            split(tree, model, chosen, units, points if data.draw(st.booleans()) else None)
        elif step == "raise":
            raise_lower(
                tree, model, chosen, [data.draw(st.floats(-9, 9) | st.just(np.nan)) for _ in chosen]
            )
        else:
            leave(tree, model, chosen, step)
        compare(tree, model, roots)


@pytest.mark.parametrize("call", ["close", "give_up", "split"])
def test_a_node_leaves_the_open_ones_once(call: str) -> None:
    tree = Tree()
    nodes = tree.add_roots(np.zeros(2))
    tree.close(nodes[:1])
    arguments = (nodes, np.zeros(2, np.int64)) if call == "split" else (nodes,)
    with pytest.raises(ValueError, match="only open nodes"):
        getattr(tree, call)(*arguments)
    account = tree.accounting()
    assert (account.created, account.closed, account.open) == (2, 1, 1)


def test_deep_weights_are_exact() -> None:
    tree = Tree(capacity=1)
    node = tree.add_roots(np.zeros(1))
    for unit in range(200):
        node = tree.split(node, np.array([unit]))[:1]
    account = tree.accounting()
    assert account.weight == Fraction(1)
    assert account.depth == 200
    paths = tree.paths(node)
    assert list(paths.units[0]) == list(range(199, -1, -1))
    assert (paths.signs == 1).all()


def test_an_unbalanced_account_says_so() -> None:
    tree = Tree()
    tree.split(tree.add_roots(np.zeros(1)), np.array([0]))
    account = tree.accounting()
    lost = type(account)(**{**vars(account), "weight": account.weight / 2})
    assert account.balanced
    assert not lost.balanced


def test_a_split_that_finds_no_memory_leaves_the_tree_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = Tree(capacity=2)
    tree.add_roots(np.array([-1.0, -2.0]))
    before, zeros, made = tree.arrays(), np.zeros, 0

    def short(*args: Any) -> NDArray[Any]:
        nonlocal made
        made += 1
        if made == 3:
            raise MemoryError
        return zeros(*args)

    monkeypatch.setattr(np, "zeros", short)
    with pytest.raises(MemoryError):
        tree.split(np.array([0, 1]), np.array([4, 5]))
    monkeypatch.undo()
    assert tree.accounting().balanced
    for name, column in tree.arrays().items():
        np.testing.assert_array_equal(column, before[name])
    children = tree.split(np.array([0, 1]), np.array([4, 5]))
    assert list(tree.lower(children)) == [-1.0, -2.0, -1.0, -2.0]
    assert tree.accounting().balanced
