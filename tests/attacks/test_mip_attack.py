"""The MIP attack by its name: against enumeration, hung solvers, the clock and Ctrl-C."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from closegap.attacks.activation.mip_attack import MipAttack, MipAttackOptions
from closegap.attacks.activation.query_attack import QueryAttack
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackInterrupted
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.mip.scip import ScipInProcess
from closegap.specs.query import Query
from closegap.specs.region import contains
from closegap.testing.enumeration import least_clause_margin
from hanging import HangingSolver
from tiny_networks import FAMILIES, dense, query

QUICK = AttackOptions(steps=2, restarts=2)


def attack() -> QueryAttack:
    made = make_attack("mip", QUICK)
    assert isinstance(made, QueryAttack)
    return made


def moved(asked: Query, least: float) -> Query:
    """The query with margins raised until the least one is this."""
    offset = least - least_clause_margin(asked, 0)
    return replace(asked, prop=replace(asked.prop, offsets=asked.prop.offsets + offset))


@pytest.mark.parametrize("kind", ["dense", "leaky", "residual"])
def test_it_breaks_what_can_be_broken_and_nothing_else(rng: np.random.Generator, kind: str) -> None:
    asked = query(rng, FAMILIES[kind](rng))
    for least in (-0.01, 0.01):
        outcome = attack().attack_query(moved(asked, least), Budget.of_seconds(20))
        assert outcome.finished
        assert (outcome.margin < 0) == (least < 0)
        assert all(contains(asked.region, point) for point in outcome.points)


def test_the_same_seed_finds_the_same_points(rng: np.random.Generator) -> None:
    asked = moved(query(rng, FAMILIES["dense"](rng)), 0.01)
    one, other = (attack().attack_query(asked, Budget(seed=3)) for _ in range(2))
    np.testing.assert_array_equal(one.points, other.points)


def test_a_solver_that_hangs_keeps_neither_the_attack_nor_a_process(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = HangingSolver(monkeypatch, "deaf-mip")
    asked = moved(query(rng, dense(rng, [3, 5, 5, 2], ops.Relu())), 1e-4)
    begun = time.monotonic()
    outcome = MipAttack(MipAttackOptions(solver="deaf-mip")).attack_query(
        asked, Budget.of_seconds(1.5)
    )
    assert time.monotonic() - begun < 2.5
    assert hanging.killed
    assert outcome.margin >= 0 and not outcome.finished
    assert not hanging.left()


@pytest.mark.parametrize("name", ["mip", "lippa", "region-walk"])
def test_an_interrupted_attack_hands_over_what_it_found(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    for place in ("mip_attack.encode", "lippa._run", "region_walk.region_problem"):
        monkeypatch.setattr(f"closegap.attacks.activation.{place}", interrupted)
    made = make_attack(name, QUICK)
    assert isinstance(made, QueryAttack)
    asked = moved(query(rng, FAMILIES["dense"](rng)), 0.01)
    with pytest.raises(AttackInterrupted) as stopped:
        made.attack_query(asked, Budget())
    outcome = stopped.value.outcomes[0]
    assert outcome.method == name
    assert outcome.margin >= 0
    assert len(outcome.points)


@pytest.mark.parametrize("name", ["mip", "lns"])
def test_a_solver_that_is_missing_is_named(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(ScipInProcess, "installed", lambda self: False)
    asked = moved(query(rng, dense(rng, [3, 5, 5, 2], ops.Relu())), 0.01)
    made = make_attack(name, QUICK)
    assert isinstance(made, QueryAttack)
    outcome = made.attack_query(asked, Budget.of_seconds(20))
    (note,) = outcome.notes
    assert note.startswith("solver scip is not installed; highs")
