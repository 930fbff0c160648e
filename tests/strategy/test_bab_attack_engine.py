"""The engine of BaB-Attack: its tree proves, its candidates break, settings reach it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from closegap.specs.query import Query
from closegap.strategy.settings import known_keys
from closegap.strategy.solve import solve
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import random_mlp
from tiny_networks import query


def shifted(rng: np.random.Generator, least: float) -> Query:
    """A query with this least margin."""
    asked = query(rng, random_mlp(rng, [3, 5, 5, 3]))
    offsets = asked.prop.offsets - least_clause_margin(asked, 0) + least
    return replace(asked, prop=replace(asked.prop, offsets=offsets))


@pytest.mark.parametrize(("least", "verdict"), [(0.1, "verified"), (-0.1, "falsified")])
def test_it_decides_what_it_has_time_for(
    rng: np.random.Generator, least: float, verdict: str
) -> None:
    settings = {"bab-attack.dive.most": "2", "bab-attack.hopping.hops": "1"}
    result = solve(shifted(rng, least), timeout=20.0, engines=["bab-attack"], settings=settings)
    assert result.bracket.verdict == verdict


def test_its_sizes_are_settings() -> None:
    keys = known_keys()
    for key in ("bottom_up.first", "dive.ratio", "beam.levels", "neighbourhoods", "workers"):
        assert f"bab-attack.{key}" in keys
