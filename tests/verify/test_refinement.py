"""Trees of single neurons: below every value in exact arithmetic, and deciding what is decided."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from closegap.bounds.regions import input_set
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.runtime.cache import compiled
from closegap.specs.query import Query
from closegap.verify.incomplete import LinearVerifier
from closegap.verify.layered.dense import lost_by_rows
from closegap.verify.refinement import passes as passes_module
from closegap.verify.refinement.forest import ForestOptions
from closegap.verify.refinement.passes import Leaves, RowBounds, RowPasses, Stage
from closegap.verify.refinement.refine import RefineOptions, refine, suits_refinement
from tiny_networks import convolutional, dense, samples
from tiny_networks import query as random_query

LONG = RefineOptions(ForestOptions(others=20, grown=400))


def stages_of(query: Query) -> tuple[list[Stage], list[tuple[list[int], int]]]:
    """All layers but the last one, and which neurons are left in each, undecided ones first."""
    exact = compiled(query.network, torch.float64)
    bounds = LinearVerifier(query).activations(Budget()).activations
    region = input_set(exact, query.region)
    read, before = None, torch.maximum(region.lower.abs(), region.upper.abs())[0]
    stages, order = [], []
    for feed, interval in sorted(bounds.items()):
        low, high = interval.lower[0], interval.upper[0]
        open_ = ((low < 0) & (high > 0)).nonzero()[:, 0]
        left = torch.cat([open_, (low >= 0).nonzero()[:, 0]])
        weight, bias = exact.weights[feed]["weight"][left], exact.weights[feed]["bias"][left]
        weight = weight if read is None else weight[:, read]
        most = torch.maximum(low.abs(), high.abs())[left]
        chord = high[open_] / (high[open_] - low[open_])
        size = lost_by_rows(weight, bias, before, most, len(bounds))
        stages.append(Stage(weight, bias, chord, -chord * low[open_], most, size))
        order.append((left.tolist(), len(open_)))
        read, before = left, most
    return stages, order


def exact_outputs(stages: list[Stage], point: torch.Tensor) -> list[list[Fraction]]:
    """Inputs of every stage's ReLUs."""
    values, found = [Fraction(v) for v in point.tolist()], []
    for stage in stages:
        inner = [
            sum((Fraction(w) * v for w, v in zip(line, values, strict=True)), Fraction(b))
            for line, b in zip(stage.weight.tolist(), stage.bias.tolist(), strict=True)
        ]
        found.append(inner)
        values = [max(v, Fraction(0)) for v in inner]
    return found


@pytest.mark.parametrize("iterations", [1, 6])
def test_rows_lie_above_their_bounds_in_exact_arithmetic(
    iterations: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes_module, "_AT_ONCE", 5)  # several parts
    query = random_query(rng, dense(rng, [3, 7, 6, 5, 2], ops.Relu()), radius=0.4)
    stages, order = stages_of(query)
    passes = RowPasses(stages, input_set(compiled(query.network, torch.float64), query.region), 3)
    points = torch.as_tensor(samples(rng, query, 12))
    inner = [exact_outputs(stages, point) for point in points]
    signs = torch.zeros(len(points), passes.units, dtype=torch.int8)
    for leaf, values in enumerate(inner):  # each leaf holds its point
        open_ = [v for part, (_, count) in zip(values, order, strict=True) for v in part[:count]]
        own = torch.tensor([1 if v >= 0 else -1 for v in open_], dtype=torch.int8)
        signs[leaf] = own * torch.as_tensor(rng.integers(0, 2, len(own)).astype(np.int8))
    rows = torch.as_tensor(rng.normal(size=(len(points), len(stages[-1].bias))))
    constants = torch.as_tensor(rng.normal(size=len(points)))
    leaves = passes.start(len(points))
    pulls = torch.as_tensor(rng.random(signs.shape)).float() * (signs != 0)
    leaves = Leaves(signs, leaves.slopes, pulls)
    found = passes.bound(rows, constants, leaves, iterations)
    for leaf, values in enumerate(inner):
        outputs = [max(v, Fraction(0)) for v in values[-1]]
        value = sum(
            (Fraction(r) * v for r, v in zip(rows[leaf].tolist(), outputs, strict=True)),
            Fraction(float(constants[leaf])),
        )
        assert Fraction(float(found.lower[leaf])) <= value
    assert (found.leaves.multipliers >= 0).all()
    assert not found.losses[signs != 0].any()


def test_more_evaluations_are_never_worse_and_splits_of_all_units_leave_nothing_to_lose(
    rng: np.random.Generator,
) -> None:
    query = random_query(rng, dense(rng, [3, 6, 5, 2], ops.Relu()), radius=0.4)
    stages, _ = stages_of(query)
    passes = RowPasses(stages, input_set(compiled(query.network, torch.float64), query.region), 2)
    rows = torch.as_tensor(rng.normal(size=(4, len(stages[-1].bias))))
    lowers = [
        passes.bound(rows, torch.zeros(4).double(), passes.start(4), count).lower
        for count in (1, 8, 30)
    ]
    assert (lowers[1] >= lowers[0] - 1e-6).all()
    assert (lowers[2] >= lowers[1] - 1e-6).all()
    start = passes.start(4)
    split = Leaves(torch.ones_like(start.signs), start.slopes, start.multipliers)
    assert not passes.bound(rows, torch.zeros(4).double(), split, 3).losses.any()


def test_second_layers_meet_what_enumeration_finds(rng: np.random.Generator) -> None:
    query = random_query(rng, dense(rng, [3, 4, 4, 2], ops.Relu()), radius=0.6)
    known = LinearVerifier(query).activations(Budget())
    found = refine(query, known, Budget(nodes=3000), LONG)
    assert found is not None
    first, second = (query.network.nodes[i].op for i in (1, 3))
    before, after = known.activations[3], found.bounds.activations[3]
    for neuron in range(4):
        least, most = (
            enumerated(query, first, second.weight[neuron], second.bias[neuron], sign)
            for sign in (1, -1)
        )
        low, high = float(after.lower[0, neuron]), float(after.upper[0, neuron])
        assert float(before.lower[0, neuron]) <= low <= least + 1e-9
        assert most - 1e-9 <= high <= float(before.upper[0, neuron])
        near = 0.05 * float((before.upper - before.lower)[0, neuron])
        if least < 0 < most:
            assert max(least - low, high - most) <= near
        elif min(abs(least), abs(most)) > near:
            assert low >= 0 or high <= 0


def enumerated(
    query: Query, first: ops.Linear, weight: np.ndarray, bias: float, sign: int
) -> float:
    """The least value, or minus the least of minus it, over all patterns of the first layer."""
    box, best = query.region, np.inf
    for pattern in product((0.0, 1.0), repeat=len(first.bias)):
        on = np.array(pattern)
        cost = sign * (weight * on) @ first.weight
        rows = (1 - 2 * on)[:, None] * first.weight
        ends = np.stack([box.lower, box.upper], axis=1)
        program = linprog(cost, A_ub=rows, b_ub=(2 * on - 1) * first.bias, bounds=ends)
        if program.status == 0:
            best = min(best, program.fun + sign * ((weight * on) @ first.bias + bias))
    return sign * best


@pytest.mark.parametrize("seed", range(3))
def test_refined_bounds_hold_and_are_nowhere_looser(seed: int) -> None:
    rng = np.random.default_rng(seed)
    query = random_query(rng, dense(rng, [4, 9, 8, 8, 7, 2], ops.Relu()), radius=0.3)
    known = LinearVerifier(query).activations(Budget())
    found = refine(query, known, Budget(nodes=400), RefineOptions())
    assert found is not None
    values = compiled(query.network, torch.float64).values(
        torch.as_tensor(samples(rng, query, 4000))
    )
    undecided = 0
    for feed, after in found.bounds.activations.items():
        before = known.activations[feed]
        assert (after.lower >= before.lower).all()
        assert (after.upper <= before.upper).all()
        assert (values[feed] >= after.lower).all()
        assert (values[feed] <= after.upper).all()
        undecided += int(((after.lower < 0) & (after.upper > 0)).sum())
    assert found.undecided == undecided
    assert found.decided > 0


@pytest.mark.parametrize("most", [0, 1, 5, 30])
def test_a_deadline_in_the_middle_of_a_round_ends_it_and_bounds_hold(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    monkeypatch.setattr(passes_module, "_AT_ONCE", 3)  # a round has several parts
    query = random_query(rng, dense(rng, [4, 9, 8, 8, 2], ops.Relu()), radius=0.3)
    known = LinearVerifier(query).activations(Budget())
    done: list[int] = []
    part = RowPasses._part

    def counted(passes: RowPasses, rows: torch.Tensor, *others: Any) -> RowBounds:
        done.append(len(rows))
        return part(passes, rows, *others)

    monkeypatch.setattr(RowPasses, "_part", counted)
    monkeypatch.setattr(Budget, "expired", property(lambda _: len(done) >= most))
    found = refine(query, known, Budget(), RefineOptions())
    monkeypatch.undo()
    assert found is not None
    assert len(done) == most
    values = compiled(query.network, torch.float64).values(
        torch.as_tensor(samples(rng, query, 1000))
    )
    for feed, after in found.bounds.activations.items():
        before = known.activations[feed]
        assert (after.lower >= before.lower).all()
        assert (after.upper <= before.upper).all()
        assert (values[feed] >= after.lower).all()
        assert (values[feed] <= after.upper).all()


def test_a_node_limit_bounds_trees_and_other_networks_are_left_alone(
    rng: np.random.Generator,
) -> None:
    query = random_query(rng, dense(rng, [4, 9, 8, 2], ops.Relu()), radius=0.3)
    known = LinearVerifier(query).activations(Budget())
    few, many = (refine(query, known, Budget(nodes=n), RefineOptions()) for n in (1, 200))
    assert few is not None
    assert many is not None
    assert few.leaves < many.leaves <= 1000
    for other in (convolutional(rng), dense(rng, [3, 4, 4, 2], ops.LeakyRelu(0.1))):
        assert not suits_refinement(random_query(rng, other))
