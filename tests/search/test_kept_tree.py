"""A tree comes back as it was kept, and plunges before its memory is full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from closegap.search.frontier import Frontier
from closegap.search.slots import SlotStore
from closegap.search.tree import Tree


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), roots=st.integers(1, 3), steps=st.integers(0, 15))
def test_random_trees_come_back(seed: int, roots: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    tree = Tree(capacity=1)
    tree.add_roots(rng.normal(size=roots))
    for _ in range(steps):
        open_ = tree.open_nodes()
        chosen = open_[rng.random(len(open_)) < 0.5]
        step = rng.integers(4)
        if step < 2:
            tree.split(chosen, rng.integers(9, size=len(chosen)), rng.normal(size=len(chosen)))
        elif step == 2:
            tree.close(chosen)
        else:
            tree.give_up(chosen)
    again = Tree.of_arrays(tree.arrays())
    assert again.accounting() == tree.accounting()
    assert again.accounting().balanced
    assert (again.least_lower() == tree.least_lower()).all()
    kept = again.arrays()
    assert all((kept[name] == column).all() for name, column in tree.arrays().items())
    assert list(again.add_roots(np.zeros(1))) == [len(tree)]


@pytest.mark.parametrize("column", ["parent", "depth", "unit", "sign", "point", "lower", "state"])
def test_a_tree_that_does_not_add_up_is_refused(column: str) -> None:
    tree = Tree()
    tree.split(tree.split(tree.add_roots(np.zeros(1)), np.array([3])), np.array([1, 2]))
    arrays = tree.arrays()
    arrays[column][-1] = {"lower": np.nan, "depth": 9, "unit": 9}.get(column, 1)
    with pytest.raises(ValueError, match="add up"):
        Tree.of_arrays(arrays)
    with pytest.raises(ValueError, match="missing"):
        Tree.of_arrays({k: v for k, v in tree.arrays().items() if k != column})


def test_a_tree_plunges_before_its_memory_is_full() -> None:
    width, count, slots = 8, 64, 1000
    tree, frontier, starts = Tree(), Frontier(), SlotStore(8, 2 * width * slots)
    starts.put(tree.add_roots(np.zeros(1)), np.zeros((1, width)))
    plunges = 0
    for step in range(200):
        picked = frontier.pick(tree, count, starts.fullness)
        plunges += frontier.plunging
        starts.take(picked)
        children = tree.split(picked, np.full(len(picked), step))
        tree.close(children[6::3])
        left = np.setdiff1d(children, children[6::3])
        starts.put(left, np.ones((len(left), width)))
    assert plunges > 0
    assert len(starts) <= slots
    assert tree.accounting().balanced
