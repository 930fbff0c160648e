"""Which attacks search for near witnesses, and with which random numbers."""

from __future__ import annotations

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


@pytest.mark.parametrize(("name", "asked"), [("l0", ["sigma-zero", "sigma-zero"]), ("l1", [])])
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
    network, image = random_mlp(rng, [4, 4, 3]), rng.random(4).astype(np.float32)
    label = int(replayer(network).outputs_float32(image[None])[0].argmax())
    query = DistanceQuery(network, image, label, make_objective(name, image))
    budget = Budget.of_seconds(20, seed=3)
    Witnesses(query, NearestAttack(), budget, replayed(query), Nearest).search()
    assert seen == [(attack, 4) for attack in asked]
