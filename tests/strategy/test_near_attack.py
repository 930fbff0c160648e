"""The turn of BaB-Attack that waits for near margins: when it comes, and that it only helps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from closegap.core.budget import Budget
from closegap.core.verdict import Verdict
from closegap.specs.query import Query
from closegap.strategy.engines import ENGINES
from closegap.strategy.engines.bab_attack import BabAttackEngine
from closegap.strategy.engines.near_attack import NearAttackEngine
from closegap.strategy.session import Session
from closegap.strategy.solve import DEFAULT_ENGINES, solve
from closegap.strategy.turns import turns
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import random_mlp, random_sigmoid
from tiny_networks import query


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float]]:
    """Seeds and seconds of the turns, instead of the attack."""
    found: list[tuple[int, float]] = []

    def run(engine: BabAttackEngine, session: Session, budget: Budget) -> None:
        found.append((budget.seed, budget.remaining))

    monkeypatch.setattr(BabAttackEngine, "run", run)
    return found


def clean_margin(asked: Query) -> float:
    session = Session(asked)
    network = session.linear.exact
    center = network.tensor(asked.reference[None])
    outputs = network(center).detach().numpy()
    return float(asked.prop.margins(outputs)[0])


def shifted(asked: Query, by: float) -> Query:
    return replace(asked, prop=replace(asked.prop, offsets=asked.prop.offsets + by))


@pytest.fixture
def asked(rng: np.random.Generator) -> Query:
    """A query whose margin is 1 at the center."""
    found = query(rng, random_mlp(rng, [3, 5, 5, 3]))
    return shifted(found, 1 - clean_margin(found))


def attained(asked: Query) -> Session:
    """A session that knows the center and nothing else."""
    session = Session(asked)
    center = asked.reference[None]
    session.offer(center, "test")
    assert not session.decided
    return session


@pytest.mark.parametrize(("near", "due"), [(1.0, True), (0.99, False), (0.0, False)])
def test_near_is_told_by_the_margin_at_the_center(
    asked: Query, ran: list[tuple[int, float]], near: float, due: bool
) -> None:
    session = attained(asked)
    engine = NearAttackEngine(near=near * (1 + 1e-5))
    engine.run(session, Budget.of_seconds(100.0, seed=7))
    assert [seed for seed, _ in ran] == ([7] if due else [])
    assert all(seconds <= 25 for _, seconds in ran)


def test_another_turn_waits_until_the_margin_halves(
    asked: Query, ran: list[tuple[int, float]]
) -> None:
    session = attained(asked)
    engine = NearAttackEngine(near=math.inf)
    for _ in range(3):
        engine.run(session, Budget.of_seconds(100.0))
    assert [seed for seed, _ in ran] == [0]
    turn, began = session.marks["near-attack"]
    session.marks["near-attack"] = turn, 1.9 * began
    engine.run(session, Budget.of_seconds(100.0))
    assert [seed for seed, _ in ran] == [0]
    session.marks["near-attack"] = turn, 2.1 * began
    engine.run(session, Budget.of_seconds(100.0))
    assert [seed for seed, _ in ran] == [0, 1]


def test_without_any_margin_and_on_other_activations_it_does_nothing(
    asked: Query, rng: np.random.Generator, ran: list[tuple[int, float]]
) -> None:
    engine = NearAttackEngine(near=math.inf)
    engine.run(Session(asked), Budget.of_seconds(100.0))
    smooth = query(rng, random_sigmoid(rng, [3, 4, 3]))
    smooth = shifted(smooth, 1 - clean_margin(smooth))
    engine.run(attained(smooth), Budget.of_seconds(100.0))
    assert not ran


@pytest.mark.parametrize("least", [0.05, -0.05])
def test_it_breaks_what_can_be_broken_and_nothing_else(asked: Query, least: float) -> None:
    truth = min(least_clause_margin(asked, k) for k in range(asked.prop.clauses))
    moved = shifted(asked, least - truth)
    settings = {"near-attack.near": "1e9", "near-attack.attack.rounds": "3"}
    result = solve(moved, timeout=20.0, engines=["pgd", "near-attack"], settings=settings)
    if least > 0:
        assert result.verdict is not Verdict.FALSIFIED
        assert result.bracket.lower <= least <= result.bracket.upper + 1e-6
    else:
        assert result.verdict is Verdict.FALSIFIED


def test_it_is_asked_again_before_every_verifier(rng: np.random.Generator) -> None:
    smooth = Session(query(rng, random_sigmoid(rng, [3, 4, 3])))
    order = [name for name, _ in turns(DEFAULT_ENGINES, smooth, Budget())]
    for verifier in ("cutoff", "bab", "cuts", "mip"):
        assert order[order.index(verifier) - 1] == "near-attack"
    plain = Session(query(rng, random_mlp(rng, [3, 5, 5, 3])))
    ENGINES["crown"]().run(plain, Budget.of_seconds(5))
    race = [name for name, _ in turns(("near-attack", "bab", "cuts"), plain, Budget())]
    assert race == ["near-attack"] + ["near-attack", "bab", "cuts"] * 4
    assert [name for name, _ in turns(("bab", "cuts"), plain, Budget())] == ["bab", "cuts"] * 4
