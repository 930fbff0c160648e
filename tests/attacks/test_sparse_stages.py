"""Trees within smaller distances than the best: against enumeration."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from closegap.attacks.sparse import staged
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import OURS
from closegap.attacks.sparse.search import SparseSearch
from closegap.attacks.sparse.tree import SparseTree
from closegap.core.budget import Budget
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Grid, L0Distance, L1Distance, L1TvDistance, L2Distance
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.networks import random_mlp

GRID = Grid(1, 2, 2)
DISTANCES = [L1Distance(), L2Distance(), L1TvDistance(GRID)]
BARE = replace(OURS, attack=None)


def asked() -> DistanceQuery:
    """A tiny network that knows more than one class, and an image of the most frequent."""
    rng = np.random.default_rng(7)
    while True:
        network = random_mlp(rng, [4, 3, 3, 3])
        points = rng.random((200, 4)).astype(np.float32)
        labels = replayer(network).outputs_float32(points).argmax(axis=1)
        if np.bincount(labels).max() < 180:
            label = int(np.bincount(labels).argmax())
            return DistanceQuery(network, points[labels == label][0], label)


def judged(query: DistanceQuery, point: np.ndarray) -> bool:
    witness = replayer(query.network).witness(query.within(query.distance(point)), point)
    return witness is not None and witness.breaks


def test_trees_within_smaller_distances_prove_these_and_no_more() -> None:
    query = asked()
    pieces = pieces_of(query)
    for objective in (*DISTANCES, L0Distance(GRID)):
        wanted = replace(query, objective=objective)
        least = least_distance(wanted, pieces)
        for share in (0.5, 0.97, 1.2):
            limit = math.ceil(share * least) if objective.integral else share * least
            incumbent = Incumbent(wanted, lambda point, _, q=wanted: judged(q, point))
            options = replace(BARE, quick=False, within=limit)
            search = SparseSearch(options, wanted, Budget.of_seconds(30.0), incumbent)
            search.begin(())
            search.grow()
            assert incumbent.lower <= min(limit, least) + 1e-7
            if limit < least:
                assert search.closed and search.least == pytest.approx(limit, abs=1e-6)


def test_stages_raise_the_lower_end_and_never_too_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged, "_FIRST_SHARE", 0.0)
    monkeypatch.setattr(staged, "_COUNTED", 1)
    query = asked()
    pieces = pieces_of(query)
    for objective in DISTANCES:
        wanted = replace(query, objective=objective)
        budget = Budget.of_seconds(30.0)
        found = SparseTree(BARE).run(wanted, budget, lambda point, _, q=wanted: judged(q, point))
        least = least_distance(wanted, pieces)
        lowers = [low for _, low, _ in found.history]
        assert found.lower <= least + 1e-7 <= found.upper + 2e-7
        assert lowers == sorted(lowers) and found.accounting.balanced
        assert found.staged > 0 and found.closed and found.nodes > found.staged
