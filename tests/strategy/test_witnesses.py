"""Which attacks search for near witnesses, and with which random numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import pytest

from closegap.attacks.activation.nearest import Nearest, NearestAttack, OnNearer
from closegap.attacks.minimal.attack import replayed
from closegap.attacks.minimal.portfolio import Entry, Portfolio
from closegap.core.budget import Budget
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import make_objective
from closegap.strategy.witnesses import Witnesses
from closegap.testing.networks import random_mlp


def _asked(rng: np.random.Generator, name: str) -> DistanceQuery:
    network, image = random_mlp(rng, [4, 4, 3]), rng.random(4).astype(np.float32)
    label = int(replayer(network).outputs_float32(image[None])[0].argmax())
    return DistanceQuery(network, image, label, make_objective(name, image))


@pytest.mark.parametrize(
    ("name", "asked"), [("l0", ["sigma-zero", "sigma-zero"]), ("l1", ["fmn"]), ("l2", [])]
)
def test_attacks_of_luck_are_asked_again_with_other_random_numbers(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str, asked: list[str]
) -> None:
    seen: list[tuple[str, int]] = []
    whole = Portfolio.whole

    def watched(
        suite: Portfolio,
        entries: Sequence[Entry],
        query: DistanceQuery,
        budget: Budget,
        judge: OnNearer,
    ) -> tuple[Nearest, ...]:
        seen.extend((entry.name, budget.seed) for entry in entries)
        return whole(suite, entries, query, budget, judge)

    monkeypatch.setattr(Portfolio, "whole", watched)
    query, budget = _asked(rng, name), Budget.of_seconds(20, seed=3)
    Witnesses(query, NearestAttack(), budget, replayed(query), Nearest).search()
    assert seen == [(attack, 4) for attack in asked]


def test_the_rest_of_the_time_is_for_other_random_numbers(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round after round while these take time or come nearer; a short one in vain is the last."""
    query, seeds, found = _asked(rng, "l1+tv"), list[int](), [Nearest()]
    points = [Nearest(distance, query.image) for distance in (2.0, 1.0)]

    def starts(
        _: Portfolio, __: DistanceQuery, budget: Budget, *___: object
    ) -> tuple[Nearest, ...]:
        seeds.append(budget.seed)
        if points:
            found.append(points.pop(0))
        elif len(seeds) == 3:
            time.sleep(1.0)
        return ()

    monkeypatch.setattr(Portfolio, "starts", starts)
    budget = Budget.of_seconds(20, seed=3)
    Witnesses(query, NearestAttack(), budget, replayed(query), lambda: found[-1]).rest()
    assert seeds == [5, 6, 7, 8]
    seeds.clear()
    Witnesses(query, NearestAttack(), Budget.of_seconds(0), replayed(query), Nearest).rest()
    assert not seeds
