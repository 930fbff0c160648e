"""Trees within smaller distances than the best: against enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from closegap.attacks.sparse import staged
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import OURS, PAPER
from closegap.attacks.sparse.search import SparseSearch
from closegap.attacks.sparse.staged import StagedSearch
from closegap.attacks.sparse.tree import SparseTree
from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Grid, L0Distance, L1Distance, L1TvDistance, L2Distance
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.networks import random_mlp, random_sigmoid
from closegap.verify.secants import secant_floor

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
        options = replace(BARE, secants=False)  # they come as far as stages here
        found = SparseTree(options).run(wanted, budget, lambda point, _, q=wanted: judged(q, point))
        least = least_distance(wanted, pieces)
        lowers = [low for _, low, _ in found.history]
        assert found.lower <= least + 1e-7 <= found.upper + 2e-7
        assert lowers == sorted(lowers) and found.accounting.balanced
        assert found.staged > 0 and found.closed and found.nodes > found.staged


def test_until_a_smaller_tree_has_closed_none_goes_far_beyond_what_others_proved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What secants proved, say: the mean of it and the upper end is where trees take too long."""
    monkeypatch.setattr(staged, "_FIRST_SHARE", 0.0)
    query = asked()
    for objective in DISTANCES:
        wanted = replace(query, objective=objective)
        least = least_distance(wanted, pieces_of(query))
        floor = SparseSearch(BARE, wanted, Budget(), Incumbent(wanted, lambda *_: False)).least
        known = floor + 0.3 * (least - floor)
        begun: list[tuple[float, float, bool]] = []
        true = StagedSearch._planted

        def planted(
            self: StagedSearch,
            radius: float,
            begun: list[tuple[float, float, bool]] = begun,
            true: Callable[[StagedSearch, float], SparseSearch] = true,
        ) -> SparseSearch:
            begun.append((radius, self._incumbent.distance, self._closed))
            return true(self, radius)

        monkeypatch.setattr(StagedSearch, "_planted", planted)
        budget, options = Budget.of_seconds(30.0), replace(BARE, known=known)
        found = SparseTree(options).run(wanted, budget, lambda point, _, q=wanted: judged(q, point))
        assert found.lower <= least + 1e-7 <= found.upper + 2e-7 and found.closed
        radius, best, closed = begun[0]
        most = max(staged._DOWN * (best - floor), staged._UNTRIED * (known - floor))
        assert not closed and known < radius <= floor + most + 1e-9
        assert radius < floor + 0.9 * math.sqrt((known - floor) * (best - floor))
        assert any(wide > floor + most for wide, _, later in begun if later)
        monkeypatch.setattr(StagedSearch, "_planted", true)


def noted(query: DistanceQuery, seconds: float) -> tuple[str, ...]:
    incumbent = Incumbent(query, lambda point, _: judged(query, point))
    search = StagedSearch(BARE, query, Budget.of_seconds(seconds), incumbent)
    search.begin(())
    return search.notes


def test_it_is_said_why_there_is_no_whole_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    query = asked()
    assert noted(query, 30.0) == ()
    assert noted(query, 0.0) == (staged._LATE,)
    with monkeypatch.context() as patch:
        patch.setattr("closegap.attacks.sparse.ground.reduce_network", lambda *_, **__: None)
        assert noted(query, 30.0) == (staged._LARGE,)
    smooth = random_sigmoid(np.random.default_rng(7), [4, 3, 3])
    for seconds in (30.0, 0.0):
        assert noted(replace(query, network=smooth, label=0), seconds) == (staged._OTHERS,)


def test_a_lower_end_by_secants_comes_before_any_tree() -> None:
    query = asked()
    pieces = pieces_of(query)
    for objective in (*DISTANCES, L0Distance(GRID)):
        wanted = replace(query, objective=objective)
        least = least_distance(wanted, pieces)
        lowers = {}
        for name, options in {"ours": BARE, "paper": PAPER}.items():
            incumbent = Incumbent(wanted, lambda point, _, q=wanted: judged(q, point))
            inner = replace(options, quick=False, within=TINY)  # no tree proves as much
            search = StagedSearch(inner, wanted, Budget.of_seconds(30.0), incumbent)
            search.begin(())
            lowers[name] = incumbent.lower
        assert lowers["ours"] == secant_floor(wanted, Budget.of_seconds(30.0)) > 0
        assert lowers["paper"] <= TINY and lowers["ours"] <= least + 1e-7
