"""When a tree of least distances looks for nearer counterexamples, and which tree goes on first."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from test_sparse_tree import asked, judged, solved

from closegap.attacks.activation.nearest import Nearest
from closegap.attacks.minimal.portfolio import Portfolio
from closegap.attacks.minimal.settle import Settling
from closegap.attacks.sparse import lookout
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import OURS, PAPER, SparseOptions
from closegap.attacks.sparse.staged import StagedSearch
from closegap.attacks.sparse.starts import Starts
from closegap.core.budget import Budget
from closegap.core.tolerance import Tolerance
from closegap.specs.objectives import L1Distance, L2Distance, LinfDistance
from closegap.testing.distances import least_distance

QUERY = replace(asked(7), objective=L2Distance())


def begun(options: SparseOptions, budget: Budget) -> tuple[Starts, Incumbent]:
    """Attacks of a tree that knows nothing, and its best."""
    best = Incumbent(QUERY, lambda point, _: judged(QUERY, point))
    return Starts(options, QUERY, budget, best), best


def test_a_quick_counterexample_is_settled_once_the_tree_has_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked_of: list[Nearest] = []
    true = Settling.run

    def counted(self: Settling, *args: object) -> Nearest:
        asked_of.append(args[1])  # type: ignore[arg-type]
        return true(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Settling, "run", counted)
    attacks, best = begun(OURS, Budget.of_seconds(30))
    attacks.settle(1000)
    assert not asked_of  # nothing is known
    attacks.quick()
    before = best.distance
    attacks.settle(1)
    assert not asked_of
    for _ in range(2):
        attacks.settle(1000)
    assert [known.distance for known in asked_of] == [before]
    assert least_distance(QUERY) - 1e-7 <= best.distance <= before

    assert best.best.point is not None
    given, other = begun(OURS, Budget.of_seconds(30))
    other.offer(best.best.point)
    given.quick()
    given.settle(1000)
    unsettled, _ = begun(replace(OURS, settle=False), Budget.of_seconds(30))
    unsettled.quick()
    unsettled.settle(1000)
    assert len(asked_of) == 1


def test_all_attacks_wait_for_a_share_of_the_time_or_for_nodes() -> None:
    assert not begun(OURS, Budget.of_seconds(1000))[0].due(10**6)
    assert begun(OURS, Budget.of_seconds(0))[0].due(0)
    assert not begun(OURS, Budget())[0].due(10) and begun(OURS, Budget())[0].due(10**6)
    assert not begun(replace(OURS, attack=None), Budget())[0].due(10**6)


def test_attacks_that_take_longer_than_they_promised_leave_time_for_proofs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[tuple[float, float]] = []

    def first(_: Portfolio, *args: Any) -> tuple[tuple[()], tuple[()]]:
        ends.append((args[1].deadline, args[3].deadline))
        return (), ()

    monkeypatch.setattr(Portfolio, "first", first)
    monkeypatch.setattr(Portfolio, "starts", lambda *_: ())
    whole = Budget.of_seconds(10)
    attacks, _ = begun(OURS, whole)
    attacks._large = True
    attacks.quick()
    ((promised, last),) = ends
    assert promised <= last < whole.deadline - 4.9


def test_trees_close_where_programs_overshoot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookout, "REPLAY_SLACK", 1e-2)
    for objective in (L1Distance(), L2Distance(), LinfDistance()):
        query = replace(QUERY, objective=objective)
        found = solved(query, PAPER)
        assert found.closed and Tolerance().closes(found.lower, found.upper)
        assert found.lower <= least_distance(query) + 1e-7


def test_a_tree_that_came_far_goes_on_before_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    _, best = begun(OURS, Budget())
    search = StagedSearch(OURS, QUERY, Budget.of_seconds(100), best)
    whole = SimpleNamespace(paused=True, least=0.9)
    monkeypatch.setattr(search, "_whole", whole)
    assert math.isinf(best.distance) and not search._promising()
    best.best = Nearest(1.0, QUERY.image)
    assert search._promising()
    whole.least = 0.3
    assert not search._promising()
    whole.least, whole.paused = 0.9, False
    assert not search._promising()
    whole.paused, search._seconds = True, 1000.0
    assert not search._promising()
