"""Sweeps over a ground's units: as tight in small parts as in large ones, and over in time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from closegap.attacks.sparse import ground as grounds
from closegap.attacks.sparse import nodes as bounding
from closegap.attacks.sparse import sweep as sweeping
from closegap.attacks.sparse.ground import make_ground
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.planes import Ranges
from closegap.core.budget import Budget
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Grid, L1TvDistance
from closegap.testing.networks import random_mlp

UNITS = 60


@pytest.fixture
def query(rng: np.random.Generator) -> DistanceQuery:
    network = random_mlp(rng, [4, UNITS, UNITS, 3])
    image = rng.random(4).astype(np.float32)
    label = int(replayer(network).outputs_float32(image[None])[0].argmax())
    return DistanceQuery(network, image, label, L1TvDistance(Grid(1, 2, 2), kappa=0.5))


def nodes_of(query: DistanceQuery, budget: Budget) -> tuple[Nodes, Ranges]:
    ground = make_ground(query, 1.0, Budget(), dense=True)
    assert ground is not None
    ranges = Ranges(ground.low, ground.high)
    assert ranges.free.sum() > UNITS
    return Nodes(ground, query.objective, budget), ranges


def test_how_many_units_go_together_changes_no_range(
    query: DistanceQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for most in (256, 7, 1):
        monkeypatch.setattr(sweeping, "_TOGETHER", most)
        nodes, ranges = nodes_of(query, replace(Budget(), nodes=1))
        found.append(nodes.swept(ranges, []))
    for other in found[1:]:
        assert np.allclose(other.low, found[0].low, rtol=0, atol=1e-6)
        assert np.allclose(other.high, found[0].high, rtol=0, atol=1e-6)


def test_sweeps_of_slow_units_end_in_time(
    query: DistanceQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each unit takes 20 ms, all of them two seconds and more; what is left out keeps its range."""
    least, together = sweeping._least, []

    def slow(*given: Any) -> np.ndarray:
        together.append(len(given[4]))
        time.sleep(0.02 * together[-1])
        return least(*given)

    monkeypatch.setattr(sweeping, "_least", slow)
    nodes, ranges = nodes_of(query, Budget.of_seconds(60))
    nodes.swept(ranges, [])
    assert len(together) > 2 and max(together[1:]) <= 16
    nodes, ranges = nodes_of(query, Budget())
    hurried = Nodes(nodes.ground, query.objective, Budget.of_seconds(0.1))
    begun = time.monotonic()
    found = hurried.swept(ranges, [])
    assert time.monotonic() - begun < 1.0
    last = nodes.ground.layers[-1]
    assert np.array_equal(found.low[last], ranges.low[last])


def test_a_climb_ends_with_the_time(query: DistanceQuery) -> None:
    """Then it is where it began, whatever steps were asked for."""
    nodes, ranges = nodes_of(query, Budget())
    late = Nodes(nodes.ground, query.objective, Budget.of_seconds(0))
    rows = np.arange(len(nodes.ground.rows))
    wide = Ranges(*(np.tile(side, (len(rows), 1)) for side in (ranges.low, ranges.high)))
    found = [one.climbed(rows, wide, one.start(wide), steps)[0]
             for one, steps in ((nodes, 0), (late, 400), (nodes, 400))]  # fmt: skip
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])


@pytest.mark.parametrize(
    "objective",
    [
        L1TvDistance(Grid(1, 2, 2)),
        L1TvDistance(Grid(1, 2, 2), kappa=0.5),
        L1TvDistance(Grid(1, 2, 2), isotropic=True),
        L1TvDistance(Grid(1, 2, 2), of="difference"),
    ],
    ids=str,
)
def test_a_ground_bounds_all_inputs_within_its_limit(
    query: DistanceQuery, objective: L1TvDistance, rng: np.random.Generator
) -> None:
    """Tighter than the ball that holds them does alone, and no nearer input is left out."""
    kept = 0
    for limit in (0.05, 0.3, 0.8):
        one = replace(query, objective=objective)
        ground = make_ground(one, limit, Budget(), dense=True)
        assert ground is not None
        steps = rng.normal(size=(20000, 4)) * rng.random((20000, 1)) ** 2
        steps[:10000] *= rng.random((10000, 4)) < 0.4
        steps = np.clip(query.center + steps, 0, 1) - query.center
        steps = steps[objective.value(query.center, query.center + steps) < limit]
        values = ground.forward(steps)[0]
        assert ((values >= ground.low - 1e-9) & (values <= ground.high + 1e-9)).all()
        kept += len(steps)
    assert kept > 1000


def test_prices_leave_fewer_units_open(
    query: DistanceQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, units = replace(query, objective=L1TvDistance(Grid(1, 2, 2))), []
    for prices in (grounds.priced, lambda *_: None):
        monkeypatch.setattr(grounds, "priced", prices)
        ground = make_ground(one, 0.1, Budget(), dense=True)
        assert ground is not None
        units.append(float((ground.high - ground.low).sum()))
    assert units[0] < units[1]


def test_grounds_of_costly_sweeps_are_not_swept(
    query: DistanceQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes, whole = nodes_of(query, Budget())
    assert nodes.settled(1).low.sum() > whole.low.sum()
    monkeypatch.setattr(bounding, "_SWEPT", 10.0)
    left = nodes.settled(1)
    assert np.array_equal(left.low, whole.low) and np.array_equal(left.high, whole.high)
