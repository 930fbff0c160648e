"""What nodes that are bounded together do besides: points, order, gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_sparse_tree import BARE, GRID, asked, grounded, judged

from closegap.attacks.sparse.ascent import _SLOWEST, Ascent, _Task
from closegap.attacks.sparse.choice import Gains
from closegap.attacks.sparse.group_rows import GroupRows
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.leaves import Leaves
from closegap.attacks.sparse.lookout import Lookout
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.options import Order
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.attacks.sparse.waves import Waves
from closegap.core.budget import Budget
from closegap.core.stopwatch import Stopwatch
from closegap.specs.objectives import (
    L1Distance,
    L1TvDistance,
    L2Distance,
    Objective,
)


@pytest.mark.parametrize("objective", [L1Distance(), L2Distance(), L1TvDistance(GRID)])
def test_multipliers_of_an_ascent_cost_as_much_with_either_phase(objective: Objective) -> None:
    """So no reduced costs fix a phase there: chords and lower lines touch both pieces alike."""
    query = replace(asked(11), objective=objective)
    ground = grounded(query, 1.0)
    nodes, count = Nodes(ground, objective, Budget()), len(ground.rows)
    ranges = Ranges(np.tile(ground.low, (count, 1)), np.tile(ground.high, (count, 1)))
    assert ranges.free.any()
    proof = nodes.climbed(np.arange(count), ranges, nodes.start(ranges), 8)[2]
    gains = np.maximum(proof.on, proof.off) - proof.either
    size = np.abs(proof.constants)[:, None] + np.abs(proof.either).sum(axis=1)[:, None]
    assert (np.where(ranges.free, gains, 0.0) <= 1e-5 * size).all()


@pytest.mark.parametrize("objective", [L1Distance(), L1TvDistance(GRID)])
def test_steps_of_nodes_with_fixed_phases_are_shorter(objective: Objective) -> None:
    query = replace(asked(11), objective=objective)
    ground = grounded(query, 1.0)
    low, high = np.tile(ground.low, (2, 1)), np.tile(ground.high, (2, 1))
    assert ((low < 0) & (high > 0)).all()  # units are what is open
    low[1] = 0.0
    reach = Reach.of(ground, objective)
    ascent = Ascent(ground, reach, GroupRows.of(ground), Budget())
    task = _Task(ascent, np.zeros(2, dtype=np.int64), Ranges(low, high), np.zeros((2, 0)))
    assert task.pace[:, 0].tolist() == pytest.approx([1.0, _SLOWEST])
    if reach.variation is not None:
        flows, points = (
            np.zeros((2, reach.variation.flows), np.float32),
            np.zeros((2, 4), np.float32),
        )
        moved = np.abs(reach.climbed(flows, points, 0, task.pace)).max(axis=1)
        assert moved[1] == pytest.approx(_SLOWEST * moved[0], rel=1e-5) and moved[0] > 0


@pytest.mark.parametrize("objective", [L1Distance(), L2Distance(), L1TvDistance(GRID)])
def test_points_of_planes_are_drawn_in_to_the_boundary(objective: Objective) -> None:
    rng, offered = np.random.default_rng(3), 0
    for seed in range(6):
        query = replace(asked(seed), objective=objective)
        ground = grounded(query, 2.0)
        best = Incumbent(query, lambda point, _, q=query: judged(q, point))
        points = rng.random((8, 4)) - query.center
        margins = ground.forward(points)[1].min(axis=1)
        nodes = Nodes(ground, objective, Budget())
        ranges = Ranges(np.tile(ground.low, (8, 1)), np.tile(ground.high, (8, 1)))
        lookout = Lookout(BARE, query, best, Budget.of_seconds(0.0))  # no program: the points alone
        lookout.survey(nodes, np.zeros(8, dtype=np.int64), points, ranges)
        broken = points[margins < 0]
        assert best.best.found == (len(broken) > 0)
        for point in broken:
            along = np.linspace(0, 1, 4001)[:, None] * point
            lost = along[ground.forward(along)[1].min(axis=1) < 0]
            first = objective.value(query.center, query.center + lost).min()
            whole = objective.value(query.center, query.center + point)
            assert best.distance <= first + whole / 2**7
            offered += 1
    assert offered > 5


def test_waves_are_the_newest_the_least_bounds_or_both() -> None:
    query = replace(asked(1), objective=L1Distance())
    for order, wanted in (
        (Order.BEST, {1, 3, 5, 7}),
        (Order.PLUNGE, {1, 3, 8, 9}),
        (Order.DEPTH, {6, 7, 8, 9}),
    ):
        options = replace(BARE, order=order, batch=4)
        best = Incumbent(query, lambda *_: False)
        leaves = Leaves(options, query, best)
        leaves.tree.add_roots(np.where(np.arange(10) % 2, 0.1, 0.9) + np.arange(10) / 100)
        waves = Waves(options, leaves, Lookout(options, query, best, Budget()), Stopwatch())
        assert set(waves._front()) == wanted


def test_units_whose_splits_gained_are_split_again() -> None:
    gains = Gains(4)
    place, cost = np.array([3, 0, 2]), np.array([[1.0, 1.0, 0.5]])
    assert gains.scores(place, cost).argmax() == 0
    gains.expect(np.array([5, 6, 7, 8]), np.array([3, 3, 0, 0]), np.array([1.0, 1.0, 1.0, 1.0]))
    found = np.array([0.1, 0.1, 0.8, 0.4]), np.array([1, -1, 1, -1])
    gains.learn(np.array([5, 6, 7, 8, 9]), np.append(found[1], 1), np.append(found[0], 9.0))
    scores = gains.scores(place, cost)[0] ** 2  # of geometric means
    assert scores[1] == pytest.approx(0.8 * 0.4) and scores[0] == pytest.approx(0.1 * 0.1)
    assert scores[2] == pytest.approx(0.25 * 0.45 * 0.25)  # mean rates, of half the cost
    again = gains.scores(place, cost)
    gains.learn(np.array([7]), np.array([1]), np.array([5.0]))  # each child counts once
    assert (gains.scores(place, cost) == again).all()
