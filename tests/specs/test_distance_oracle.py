"""The enumerated least distance: against closed forms, samples, and the order of the distances."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

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
from closegap.testing.distances import least_distance, nearest_in, pieces_of
from closegap.testing.enumeration import Region
from closegap.testing.networks import random_mlp

GRID = Grid(1, 2, 2)
DISTANCES: list[Objective] = [
    LinfDistance(),
    L2Distance(),
    L1Distance(),
    L0Distance(GRID),
    L1TvDistance(GRID, 0.1),
    L1TvDistance(GRID, 0.1, isotropic=True),
    L1TvDistance(GRID, 0.1, of="difference"),
    L1TvDistance(GRID, 0.1, of="difference", isotropic=True),
]


def test_no_sample_is_nearer_than_the_enumerated_optimum(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 4, 3, 2])
    points = rng.random((20000, 4)).astype(np.float32)
    labels = replayer(network).outputs_float32(points).argmax(axis=1)
    query = DistanceQuery(network, points[0], int(labels[0]))
    lost = points[labels != labels[0]].astype(np.float64)
    pieces = pieces_of(query)
    found = {}
    for objective in DISTANCES:
        asked = replace(query, objective=objective)
        best = found[str(objective)] = least_distance(asked, pieces)
        nearest = objective.value(query.center, lost).min(initial=math.inf)
        assert best <= nearest + 1e-9
        if not objective.integral and math.isfinite(nearest):
            assert nearest <= best + 0.2
    linf, l2, l1 = (found[str(o)] for o in DISTANCES[:3])
    assert linf <= l2 + 1e-9
    assert l2 <= l1 + 1e-9
    for plain, isotropic in ((4, 5), (6, 7)):
        assert found[str(DISTANCES[isotropic])] >= 0.6 * l1
        assert found[str(DISTANCES[plain])] >= 0.6 * l1


def test_half_spaces_have_closed_forms() -> None:
    """The image is 0; what must be met is `x_0 + 2 x_1 >= 1` in the unit square of four inputs."""
    gain = np.array([[1.0, 2.0, 0.0, 0.0]])
    half = Region(np.zeros(4), np.ones(4), -gain, np.array([-1.0]))
    image = np.zeros(4)
    wanted = [1 / 3, 1 / math.sqrt(5), 0.5, 1.0]
    # One pixel of 0.5 costs 0.5 and two edges of 0.5, of which a corner's gradient is one length.
    wanted += [0.5 + 0.1, 0.5 + 0.1]
    for objective, value in zip(DISTANCES, wanted, strict=False):
        found = nearest_in(objective, image, half)
        assert found == pytest.approx(value, abs=1e-7)
