"""Starts near the least distance, against enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from closegap.attacks.minimal.attack import replayed
from closegap.attacks.minimal.portfolio import portfolio
from closegap.attacks.minimal.successive import SuccessivePrograms
from closegap.core.budget import Budget
from closegap.graph.network import Network
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import make_objective
from closegap.testing.distances import least_distance
from closegap.testing.networks import random_mlp, random_residual

NAMES = ["linf", "l2", "l1", "l0", "l1+tv", "weighted-l1"]


def asked(network: Network, image: np.ndarray, name: str) -> DistanceQuery:
    label = int(replayer(network).outputs_float32(image[None])[0].argmax())
    return DistanceQuery(network, image, label, make_objective(name, image))


@pytest.mark.parametrize("name", NAMES)
def test_starts_count_and_none_is_nearer_than_the_optimum(
    rng: np.random.Generator, name: str
) -> None:
    network, exact = random_mlp(rng, [4, 4, 3]), np.inf
    while not np.isfinite(exact):
        query = asked(network, rng.random(4).astype(np.float32), name)
        exact = least_distance(query)
    found = portfolio(query.objective).starts(query, Budget(), replayed(query))
    distances = [nearest.distance for nearest in found]
    assert distances == sorted(distances)
    assert exact - 1e-6 <= distances[0] <= 1.3 * exact + 0.02
    for nearest in found:
        assert nearest.point is not None
        assert replayed(query)(nearest.point, nearest.distance)


def test_programs_come_nearer_and_never_leave_a_broken_point(rng: np.random.Generator) -> None:
    other = np.zeros(0)
    while not len(other):
        network = random_residual(rng)
        drawn = rng.random((40, *network.input_shape)).astype(np.float32)
        labels = replayer(network).outputs_float32(drawn).argmax(axis=1)
        other = drawn[labels != labels[0]]
    for name in ("l1+tv", "weighted-l1"):
        query = asked(network, drawn[0], name)
        begun = min(other, key=query.distance)
        found = SuccessivePrograms(classes=0).run(query, Budget(), replayed(query), [begun])
        assert found.distance < 0.9 * query.distance(begun)
    nothing = SuccessivePrograms().run(query, Budget.of_seconds(0), replayed(query), [begun])
    assert not nothing.found
