"""Lower ends by planes: never above the enumerated optimum, and the optimum of linear networks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from closegap.core.budget import Budget
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import (
    Grid,
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.networks import random_mlp
from closegap.verify.distance_floor import FloorOptions, distance_floor

GRID = Grid(1, 2, 2)
DISTANCES: list[Objective] = [
    LinfDistance(),
    L2Distance(),
    L1Distance(np.array([0.5, 1.0, 2.0, 4.0])),
    L0Distance(GRID),
    L1TvDistance(GRID),
    L1TvDistance(GRID, 0.7, isotropic=True),
]


def asked(rng: np.random.Generator, sizes: list[int]) -> DistanceQuery:
    network = random_mlp(rng, sizes)
    image = rng.random(sizes[0]).astype(np.float32)
    label = int(replayer(network).outputs_float32(image[None]).argmax())
    return DistanceQuery(network, image, label)


def test_no_counterexample_is_nearer(rng: np.random.Generator) -> None:
    query = asked(rng, [4, 4, 2])
    pieces, reached = pieces_of(query), 0
    few = FloorOptions(rounds=4, climbs=1)
    for objective in DISTANCES:
        one = replace(query, objective=objective)
        best = least_distance(one, pieces)
        for upper in (math.inf, best + 1):
            found = distance_floor(one, Budget.of_seconds(20), upper=upper, options=few)
            assert found <= min(best, upper) + 1e-9
            reached += found > 0
    assert reached > 0


def test_planes_of_linear_networks_are_exact(rng: np.random.Generator) -> None:
    query = asked(rng, [4, 2])
    for objective in (LinfDistance(), L2Distance(), L1Distance(), L0Distance(GRID)):
        one = replace(query, objective=objective)
        best = least_distance(one)
        found = distance_floor(one, Budget.of_seconds(20))
        if math.isfinite(best):
            assert found == pytest.approx(best, rel=0.06)
        assert found <= best + 1e-9


def test_no_time_leaves_the_floor(rng: np.random.Generator) -> None:
    query = asked(rng, [4, 3, 2])
    assert distance_floor(query, Budget.of_seconds(0)) >= 0
