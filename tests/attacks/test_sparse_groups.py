"""Rows over groups of units: they hold wherever an input counts, and trees with them are exact."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from test_sparse_tree import EXACT, GRID, asked, grounded, solved

from closegap.attacks.sparse.climbing import Grouping
from closegap.attacks.sparse.ground import Ground
from closegap.attacks.sparse.group_rows import GroupRows
from closegap.attacks.sparse.groups import octahedra_within
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.options import OURS, GroupOptions
from closegap.attacks.sparse.planes import Joint, Planes, Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.vertices import directions
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import (
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.testing.distances import least_distance
from closegap.testing.networks import random_leaky, random_mlp

AT_ONCE = GroupOptions(size=3, after=0, rows=200, steps=60, worth=-1.0)
BARE = replace(OURS, attack=None, staged=False)
NORMS: list[Objective] = [
    L0Distance(GRID),
    L1Distance(),
    L2Distance(),
    LinfDistance(),
    L1TvDistance(GRID, 0.2),
]


def wide(seed: int, objective: Objective, *, leaky: bool = False) -> DistanceQuery:
    """A network with wider layers, so that units are open together."""
    rng = np.random.default_rng(seed)
    network = (random_leaky if leaky else random_mlp)(rng, [4, 9, 9, 3])
    image = rng.uniform(0.3, 0.7, size=4).astype(np.float32)
    label = int(replayer(network).outputs_float32(image[None])[0].argmax())
    return DistanceQuery(network, image, label, objective)


def near(query: DistanceQuery, ground: Ground, rng: np.random.Generator, count: int) -> np.ndarray:
    """Differences from the image of inputs that are nearer than the ground's limit."""
    center = query.center
    steps = rng.normal(size=(count, 4)) * rng.random((count, 4)) ** 3
    steps *= rng.random((count, 4)) < 0.6
    steps *= 2 * rng.random((count, 1)) / np.abs(steps).max(axis=1, initial=1e-9, keepdims=True)
    steps = np.clip(center + steps, 0, 1) - center
    for _ in range(60):  # back towards the image, until near
        far = query.objective.value(center, center + steps) >= ground.limit
        steps = np.where(far[:, None], steps * 0.93, steps)
    return steps[query.objective.value(center, center + steps) < ground.limit]


def found_rows(
    ground: Ground, objective: Objective, options: GroupOptions = AT_ONCE
) -> tuple[Nodes, GroupRows]:
    """The rows that roots' bounds lean on."""
    nodes = Nodes(ground, objective, Budget(), grouping=Grouping(options))
    ranges = Ranges(*(np.tile(side, (len(ground.rows), 1)) for side in (ground.low, ground.high)))
    nodes.climbed(np.arange(len(ground.rows)), ranges, nodes.start(ranges), 20)
    return nodes, nodes.rows


def states(ground: Ground, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units' inputs and outputs at points."""
    z = np.array([ground.forward(step)[0] for step in steps])
    return z, np.where(z >= 0, z, ground.slope * z)


@pytest.mark.parametrize("objective", NORMS, ids=lambda objective: objective.name)
@pytest.mark.parametrize("leaky", [False, True])
def test_rows_hold_wherever_an_input_counts(objective: Objective, *, leaky: bool) -> None:
    rng, count, tight = np.random.default_rng(5), 0, math.inf
    for seed in range(6):
        query = wide(seed, objective, leaky=leaky)
        ground = grounded(query, 3 if objective.integral else 0.4)
        _, rows = found_rows(ground, objective)
        if not rows.count:
            continue
        count += rows.count
        z, h = states(ground, near(query, ground, rng, 2000))
        assert len(z) > 1000
        left = z @ rows.inner.T + h @ rows.outer.T
        whole = rows.within(Ranges(ground.low, ground.high))
        assert (left >= whole.limits - 1e-9).all() and not whole.empty.any()
        tight = min(tight, float(((left - whole.limits) / rows.size).min()))
        for _ in range(20):
            signs = rng.integers(-1, 2, size=ground.units)
            ranges = Ranges(
                np.where(signs > 0, 0.0, ground.low), np.where(signs < 0, 0.0, ground.high)
            )
            here = rows.within(ranges)
            inside = ((z >= ranges.low) & (z <= ranges.high)).all(axis=1)
            assert (here.limits >= whole.limits).all()
            assert (left[inside] >= here.limits - 1e-9).all()
            assert not (here.empty[0] and inside.any())
    assert count > 2 and tight < 0.05  # they are no triviality either


@pytest.mark.parametrize("objective", NORMS, ids=lambda objective: objective.name)
def test_octahedra_are_those_of_the_ball(objective: Objective) -> None:
    """They hold at points, and are tighter than sums of single bounds."""
    rng, query = np.random.default_rng(1), wide(2, objective)
    ground = grounded(query, 2 if objective.integral else 0.5)
    planes, whole = Planes(ground, objective), Ranges(ground.low, ground.high)
    layer = ground.layers[0]
    units = np.arange(layer.start, layer.stop)
    assert len(units) >= 3
    groups = np.array([units[:3], units[-3:]])
    limits = octahedra_within(planes, Reach.of(ground, objective), whole, groups, 0)
    z, _ = states(ground, near(query, ground, rng, 3000))
    ways = directions(3)
    for group, limit in zip(groups, limits, strict=True):
        seen = (z[:, group] @ ways.T).max(axis=0)
        assert (seen <= limit + 1e-9).all()
        sums = np.where(ways > 0, whole.high[group], -whole.low[group]) * np.abs(ways)
        assert (limit <= sums.sum(axis=1) + 1e-9).all()
        mixed = np.abs(ways).sum(axis=1) > 1
        assert (limit[mixed] < sums.sum(axis=1)[mixed] - 1e-3).any()


@pytest.mark.parametrize("objective", NORMS, ids=lambda objective: objective.name)
def test_bounds_with_rows_are_below_every_counterexample(objective: Objective) -> None:
    rng, lifted, kept = np.random.default_rng(3), 0.0, 0
    for seed in range(4):
        query = wide(seed, objective)
        limit = 4 if objective.integral else 1.0
        ground = grounded(query, limit)
        nodes, rows = found_rows(ground, objective)
        bare, count = Nodes(ground, objective, Budget()), len(ground.rows)
        steps = near(query, ground, rng, 2000)
        seen = [ground.forward(step) for step in steps]
        sizes = objective.value(query.center, query.center + steps)
        held = [Ranges(ground.low, ground.high)] * count
        for unit in rng.permutation(ground.units)[:4]:
            held += [r.split(int(unit), int(rng.choice([-1, 1]))) for r in held[-count:]]
        ranges = Ranges(np.stack([r.low for r in held]), np.stack([r.high for r in held]))
        targets = np.arange(len(held)) % count
        lower, climbed, proof = nodes.climbed(targets, ranges, nodes.start(ranges), 30)
        without = bare.climbed(targets, ranges, bare.start(ranges), 30)[1]
        if rows.count:
            assert (climbed.slopes.joint > 0).any()
            lifted += np.minimum(climbed.values, 0).sum() - np.minimum(without.values, 0).sum()
        for at, target in enumerate(targets):
            inside = [
                k
                for k, (z, m) in enumerate(seen)
                if ((z >= ranges.low[at]) & (z <= ranges.high[at])).all()
            ]
            planes = steps[inside] @ proof.slopes[at] + proof.constants[at]
            margins = np.array([seen[k][1][target] for k in inside])
            assert (planes <= margins + 1e-9).all()
            broken = np.array(inside, dtype=int)[margins <= 0]
            assert (sizes[broken] >= min(lower[at], limit) - 1e-9).all()
            kept += len(inside)
    assert kept > 1000 and lifted > 0


@pytest.mark.parametrize("objective", [*EXACT, L0Distance(GRID)], ids=lambda o: o.name)
@pytest.mark.parametrize("batch", [0, 64])
def test_trees_with_rows_are_exact(objective: Objective, batch: int) -> None:
    options = replace(BARE, batch=batch, groups=replace(AT_ONCE, size=2))
    for seed in (1, 7):
        query = replace(asked(seed), objective=objective)
        least, found = least_distance(query), solved(query, options)
        assert found.accounting.balanced
        assert found.lower <= least + 1e-7 and found.upper >= least - 1e-7
        assert found.closed
        assert OURS.tolerance.closes(found.lower, found.upper)


@pytest.mark.parametrize("batch", [0, 8])
def test_wider_trees_with_rows_end_where_those_without_do(batch: int) -> None:
    for seed, objective in enumerate([L1Distance(), L2Distance(), LinfDistance(), NORMS[-1]]):
        query = wide(seed, objective)
        without = replace(BARE, batch=batch)
        pair = [solved(query, o) for o in (without, replace(without, groups=AT_ONCE))]
        assert all(found.closed and found.accounting.balanced for found in pair)
        assert pair[0].upper == pytest.approx(pair[1].upper, abs=3e-6)
        assert max(pair[0].lower, pair[1].lower) <= min(pair[0].upper, pair[1].upper) + 1e-9


@pytest.mark.parametrize("objective", [L1Distance(), L2Distance(), NORMS[-1]])
def test_programs_with_rows_prove_more(objective: Objective) -> None:
    """In one node, and in its children, whose rows have other limits."""
    gained = 0.0
    for seed in range(6):
        query = wide(seed, objective)
        ground = grounded(query, 0.6)
        bare = Nodes(ground, objective, Budget())
        nodes = Nodes(ground, objective, Budget(), grouping=Grouping(AT_ONCE, programs=True))
        node = Ranges(ground.low, ground.high)
        for unit in np.flatnonzero(node.free)[::-2]:
            ends = [n.solve(0, node, 0.6)[0].lower for n in (bare, nodes)]
            assert min(ends[1], 0.6) >= min(ends[0], 0.6) - 1e-5
            gained += min(ends[1], 0.6) - min(ends[0], 0.6)
            node = node.split(int(unit), 1)
    assert gained > 1e-3


def some_cuts() -> tuple[Ground, HullCuts]:
    for seed in range(9):
        ground = grounded(wide(seed, L2Distance()), 0.5)
        rows = found_rows(ground, L2Distance())[1]
        if rows.count > 1:
            return ground, rows.sets[0]
    raise AssertionError("no rows")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_rows_that_are_no_numbers_are_dropped(value: float) -> None:
    ground, cuts = some_cuts()
    normals = cuts.normals.clone()
    normals[0, 0] = value
    rows = GroupRows.of(ground, [HullCuts.of(cuts.hulls, cuts.owner, normals)])
    assert rows.count == cuts.size - 1
    assert np.isfinite(rows.inner).all() and np.isfinite(rows.outer).all()
    whole = rows.within(Ranges(ground.low, ground.high))
    assert np.isfinite(whole.limits).all()
    assert whole.weighed(np.full((1, rows.count), value)) is not None
    joint = whole.weighed(np.full((1, rows.count), value))
    assert joint is not None and not joint.inner.any() and joint.lost == 0


def test_what_rounding_takes_of_weighted_rows_is_counted() -> None:
    rng, (ground, cuts) = np.random.default_rng(0), some_cuts()
    many = torch.as_tensor(rng.integers(0, len(cuts.hulls.members), 300))
    normals = torch.as_tensor(rng.normal(size=(300, cuts.normals.shape[1])))
    rows = GroupRows.of(ground, [HullCuts.of(cuts.hulls, many, normals)])
    held = rows.within(Ranges(ground.low, ground.high))
    weights = 1e9 * rng.random((1, rows.count)).astype(np.float32)
    joint = held.weighed(weights)
    assert joint is not None
    exact = [Fraction(float(w)) for w in weights[0]]
    tall = ground.reach[ground.inputs :]
    off = Fraction(0)
    for side, given in ((rows.inner, joint.inner[0]), (rows.outer, joint.outer[0])):
        for unit in range(ground.units):
            true = sum(w * Fraction(float(p)) for w, p in zip(exact, side[:, unit], strict=True))
            off += abs(true - Fraction(float(given[unit]))) * Fraction(float(tall[unit]))
    true = sum(w * Fraction(float(p)) for w, p in zip(exact, held.limits[0], strict=True))
    off += abs(true - Fraction(float(joint.constant[0])))
    assert 0 < off <= Fraction(float(joint.lost[0]))


def test_groups_have_two_to_four_units() -> None:
    for size in (1, 5):
        with pytest.raises(OptionError, match="2 to 4"):
            GroupOptions(size=size)


def test_planes_take_up_any_function_of_units() -> None:
    """Whatever is added to a margin, the plane is below their sum: nothing rests on its sign."""
    rng, query = np.random.default_rng(6), wide(2, L2Distance())
    ground = grounded(query, 0.5)
    planes, margin = Planes(ground, L2Distance()), Planes(ground, L2Distance()).margin(0)
    steps = near(query, ground, rng, 2000)
    z, h = states(ground, steps)
    margins = np.array([ground.forward(step)[1][0] for step in steps])
    for _ in range(40):
        inner, outer = 10 * rng.normal(size=(2, 1, ground.units))
        joint = Joint(inner, outer, rng.normal(size=1), np.zeros(1))
        signs = rng.integers(-1, 2, size=ground.units)
        ranges = Ranges(np.where(signs > 0, 0.0, ground.low), np.where(signs < 0, 0.0, ground.high))
        inside = ((z >= ranges.low) & (z <= ranges.high)).all(axis=1)
        y = rng.normal(size=(1, ground.units)) - inner
        proof = planes.proof(margin, y, ranges, joint)
        total = margins + joint.constant - z @ inner[0] - h @ outer[0]
        below = steps @ proof.slopes[0] + proof.constants[0]
        assert (below <= total + 1e-9)[inside].all()
