"""Branch and bound over first-layer signs against enumeration and the integer program."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.binarized.first_layer import FirstSigns, fixed_signs, sum_bounds
from closegap.graph.binarized.fold import folded
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.binarized.intervals import interval_layer
from closegap.graph.binarized.recognise import binarized_form
from closegap.graph.binarized.records import Patches, SignLayer, Thresholds
from closegap.graph.network import Node
from closegap.runtime.cache import compiled
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.specs.region import Box, bounding_box
from closegap.testing.enumeration import clause_margin, least_clause_margin, linear_pieces
from closegap.testing.networks import random_sign
from closegap.verify.binarized.groups import group_bounds, grouped
from closegap.verify.binarized.programs import SignPrograms
from closegap.verify.binarized.sign_layers import stage_of
from closegap.verify.binarized.tree import SignSearch
from tiny_networks import network


def tiny(seed: int, sizes: list[int], eps: float) -> Query:
    rng = np.random.default_rng(seed)
    net = random_sign(rng, sizes)
    image = rng.random(sizes[0]).astype(np.float32)
    with torch.no_grad():
        label = int(compiled(net, torch.float64)(torch.from_numpy(image[None]).double()).argmax())
    return robustness(net, image, label, eps)


def search_of(q: Query) -> SignSearch:
    clauses = np.arange(q.prop.clauses)
    return SignSearch(q, BinarizedForward(binarized_form(q.network)), clauses, lambda point: False)


@pytest.mark.parametrize("sizes", [[6, 6, 3], [6, 5, 5, 3], [7, 5, 6, 6, 3]])
def test_a_closed_tree_is_right_and_never_above_the_truth(sizes: list[int]) -> None:
    for seed in range(2):
        q = tiny(seed, sizes, 0.12)
        search = search_of(q)
        search.run(Budget.of_seconds(5))
        pieces = list(linear_pieces(q))
        least = [least_clause_margin(q, k, pieces) for k in range(q.prop.clauses)]
        found = [search.lower(k) for k in range(q.prop.clauses)]
        assert all(low <= most + 1e-12 for low, most in zip(found, least, strict=True))
        assert [low > 0 for low in found] == [most > 0 for most in least]


def breaks(q: Query, clause: int, seen: list[np.ndarray], point: np.ndarray) -> bool:
    seen.append(point)
    return bool(clause_margin(q, clause, point[None].astype(np.float32))[0] < 0)


@pytest.mark.parametrize("sizes", [[6, 6, 3], [6, 5, 5, 3], [7, 5, 6, 6, 3]])
def test_programs_prove_and_break_what_enumeration_does(sizes: list[int]) -> None:
    for seed in range(2):
        q = tiny(seed, sizes, 0.12)
        box, pieces = bounding_box(q.region), list(linear_pieces(q))
        for clause in range(q.prop.clauses):
            least, seen = least_clause_margin(q, clause, pieces), list[np.ndarray]()
            programs = SignPrograms(q, partial(breaks, q, clause, seen))
            lower = programs.bound(clause, Budget.of_seconds(10))
            assert not programs.trouble
            assert lower <= least
            assert (lower > 0, programs.broken) == (least > 0, least < 0)
            assert all((p >= box.lower).all() and (p <= box.upper).all() for p in seen)


def test_a_program_holds_margins_of_any_size(rng: np.random.Generator) -> None:
    """One output alone, all of whose weights have one sign."""
    for _ in range(3):
        weight, bias = -rng.uniform(1, 3, size=(1, 5)), rng.uniform(-20, -10, size=1)
        first = ops.Linear(rng.normal(size=(5, 4)), np.zeros(5))
        net = network(
            Node(ops.Input(), (), (4,)),
            Node(first, (0,), (5,)),
            Node(ops.Sign(1), (1,), (5,)),
            Node(ops.Linear(weight, bias), (2,), (1,)),
        )
        one = np.ones((1, 1))
        prop = Property(one, np.zeros(1), np.zeros(1, np.int64), True, ("y",))
        q = Query(net, Box(-np.ones(4), np.ones(4)), prop)
        programs = SignPrograms(q, lambda point: False)
        found, least = programs.bound(0, Budget.of_seconds(10)), least_clause_margin(q, 0)
        assert not programs.trouble
        assert least - 1e-2 <= found <= least


def test_a_clause_that_was_not_searched_is_not_proved() -> None:
    q = tiny(0, [6, 6, 3], 0.0)
    form = BinarizedForward(binarized_form(q.network))
    search = SignSearch(q, form, np.array([1]), lambda point: False)
    search.run(Budget.of_seconds(5))
    assert search.lower(0) == -np.inf < 0 < search.lower(1)


def test_bounds_hold_at_every_input_with_the_signs(rng: np.random.Generator) -> None:
    for seed, sizes in enumerate(([7, 6, 5, 3], [6, 12, 8, 3], [8, 9, 7, 6, 3])):
        q = tiny(seed, sizes, 0.3)
        relaxation = search_of(q).relaxation
        forward = BinarizedForward(binarized_form(q.network))
        box = bounding_box(q.region)
        points = rng.uniform(box.lower, box.upper, size=(80, *box.lower.shape))
        bits = FirstSigns(forward.network.first)(points.reshape(80, -1))
        shown = rng.random(bits.shape) < 0.6
        fixed = fixed_signs(
            forward.network.first,
            sum_bounds(forward.network.first, box.lower.reshape(-1), box.upper.reshape(-1)),
        )
        signs = np.where(shown | (fixed != 0), np.where(bits, 1, -1), 0).astype(np.int64)
        margins = q.prop.clause_values(q.prop.row_margins(forward.outputs(bits)))
        for clause in range(q.prop.clauses):
            which = np.full(80, clause)
            found = relaxation.bound(signs, which, None)
            again = relaxation.bound(signs, which, found.knobs)
            assert (found.lower <= margins[:, clause]).all()
            assert (again.lower <= margins[:, clause]).all()


def test_cells_called_empty_are_empty(rng: np.random.Generator) -> None:
    q = tiny(1, [2, 9, 3], 0.5)
    first = binarized_form(q.network).first
    box = bounding_box(q.region)
    points = rng.uniform(box.lower, box.upper, size=(20000, 2))
    seen = np.unique(np.where(FirstSigns(first)(points), 1, -1), axis=0)
    open_ = (seen != seen[0]).any(axis=0)
    patterns = np.repeat(seen[:1], 2 ** open_.sum(), axis=0)
    patterns[:, open_] = list(product([-1, 1], repeat=int(open_.sum())))
    found = search_of(q).relaxation.bound(patterns, np.zeros(len(patterns), np.int64), None)
    occurs = (patterns[:, None] == seen[None]).all(axis=2).any(axis=1)
    assert not occurs[np.isinf(found.lower)].any()
    assert np.isinf(found.lower).sum() > (~occurs).sum() / 2


def test_a_pooled_layer_is_bounded_by_intervals(rng: np.random.Generator) -> None:
    layer = SignLayer(
        Patches(np.arange(8)[None], rng.choice([-1.0, 1.0], size=(6, 8)), 8),
        Thresholds(
            taken=np.arange(6).reshape(3, 2),
            sense=rng.choice([-1, 1], size=(3, 2)),
            low=rng.choice([-2.0, 0.0, 2.0], size=(3, 2)),
            high=np.zeros((3, 2)),
            exact=(),
            which=np.zeros((3, 2), np.int64),
            any_of=np.array([True, False, True]),
        ),
        np.full(6, 8),
    )
    signs = rng.choice([-1, 0, 1], size=(60, 8), p=[0.4, 0.2, 0.4])
    fixed = stage_of(layer).signs(torch.from_numpy(signs).float())[2].numpy()
    np.testing.assert_array_equal(fixed, interval_layer(layer).signs(signs))
    assert (fixed != 0).any()


def test_sums_that_float32_does_not_hold_are_exact_too() -> None:
    edge = 2.0**25 + 2
    layer = SignLayer(
        Patches(np.arange(3)[None], np.array([[2.0**25, 1.0, 1.0]]), 3),
        Thresholds(
            taken=np.zeros((1, 1), np.int64),
            sense=np.ones((1, 1), np.int64),
            low=np.full((1, 1), edge),
            high=np.full((1, 1), edge),
            exact=(),
            which=np.zeros((1, 1), np.int64),
            any_of=np.array([True]),
        ),
        np.full(1, 3),
    )
    signs = torch.tensor([[1.0, 1.0, -1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    low, high, fixed = stage_of(layer).signs(signs)
    assert low[:, 0].tolist() == [-2, 0, -2] and high[:, 0].tolist() == [-2, 0, 0]
    assert fixed[:, 0].tolist() == [-1, 1, 0]


def test_groups_cover_all_units_and_bound_what_patterns_give(rng: np.random.Generator) -> None:
    reads = rng.random((40, 16)) < 0.15
    sets, member = grouped(reads, 6, Budget.of_seconds(60))
    assert (reads <= sets[member]).all()
    assert (sets.sum(axis=1) <= np.maximum(6, reads.sum(axis=1).max())).all()
    assert len(sets) < len(np.unique(reads, axis=0))
    proved = 0
    for seed in range(6):
        q = tiny(seed, [6, 5, 9, 3], 0.12)
        form, box = binarized_form(q.network), bounding_box(q.region)
        small = folded(form, box.lower.reshape(-1), box.upper.reshape(-1), 1 << 20)
        assert small is not None
        found, late = (group_bounds(small, q.prop, Budget.of_seconds(t)) for t in (60, 0))
        pieces = list(linear_pieces(q))
        for row, clause in enumerate(q.prop.clause.tolist()):
            least = least_clause_margin(q, clause, pieces)
            assert late[row] <= found[row] <= least
            proved += found[row] > 0
        bits = np.array(list(product([False, True], repeat=small.widths[0])), dtype=bool)
        every = q.prop.row_margins(BinarizedForward(small).outputs(bits)).min(axis=0)
        np.testing.assert_allclose(found, every, atol=1e-9)  # all units read the same few signs
    assert proved
