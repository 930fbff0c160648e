"""The engine of BaB-Attack: its tree proves, its candidates break, settings reach it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from closegap.attacks.activation.bab_attack.arena import Polish
from closegap.attacks.activation.bab_attack.attack import BabAttackOptions
from closegap.attacks.activation.bab_attack.tree import TreeOptions
from closegap.attacks.gradient.hopping import hop_pgd
from closegap.attacks.gradient.options import AttackOptions
from closegap.core.budget import Budget
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.strategy import shared_tree
from closegap.strategy.engines.bab import BranchEngine
from closegap.strategy.engines.bab_attack import BabAttackEngine
from closegap.strategy.session import Session
from closegap.strategy.settings import known_keys
from closegap.strategy.shared_tree import HeldTree, held_tree
from closegap.strategy.solve import solve
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import random_mlp
from closegap.verify.bab.multineuron import MultiNeuronOptions
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.problem import SplitProblem, split_problem
from tiny_networks import query

BEAM = BabAttackEngine(
    BabAttackOptions(
        hopping=replace(hop_pgd(AttackOptions(steps=2, restarts=2)), hops=0),
        hops=0,
        walks=1,
        polish=Polish(steps=2, lanes=2),
        bottom_up=None,
        dive=None,
        beam=TreeOptions(beam=2, levels=1),
        rounds=2,
        workers=1,
    )
)
PROOF = BranchEngine(BranchOptions(batch=4, multineuron=MultiNeuronOptions()))


def pair(rng: np.random.Generator, least: tuple[float, float]) -> Session:
    """Two clauses with these least margins, and nothing known."""
    asked = query(rng, random_mlp(rng, [3, 6, 6, 2]))
    prop = Property(np.eye(2), np.zeros(2), np.arange(2), True, ("first", "second"))
    asked = replace(asked, prop=prop)
    true = np.array([least_clause_margin(asked, clause) for clause in range(2)])
    return Session(replace(asked, prop=replace(prop, offsets=np.array(least) - true)))


def tree_of(session: Session) -> HeldTree:
    held = held_tree(session)
    assert held is not None
    count = held.shared.tree.accounting()
    assert count.balanced
    assert session.counts["nodes"] == count.created
    return held


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


@pytest.mark.parametrize("least", [(0.01, 0.02), (0.01, -0.01)])
@pytest.mark.parametrize("first", ["attack", "proof"])
def test_attack_and_proof_grow_one_tree(
    rng: np.random.Generator, first: str, least: tuple[float, float]
) -> None:
    """The turns go on with one another's nodes, and the verdict is that of enumeration."""
    session = pair(rng, least)
    turns = [(BEAM, Budget()), (PROOF, Budget(nodes=15))]
    nodes, trees = [0], []
    for engine, budget in turns if first == "attack" else turns[::-1]:
        engine.run(session, budget)
        if not session.decided:
            trees.append(tree_of(session))
            nodes.append(session.counts["nodes"])
    PROOF.run(session, Budget())
    assert session.bracket.verdict == ("verified" if min(least) > 0 else "falsified")
    if trees:
        assert all(held is trees[0] for held in [*trees, tree_of(session)])
        assert nodes == sorted(nodes)


def test_a_tree_that_the_time_did_not_suffice_to_compose_is_not_kept(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = pair(rng, (0.01, 0.02))
    given: list[Budget | None] = []

    def composed(*args: Any, budget: Budget | None = None, **options: Any) -> SplitProblem | None:
        given.append(budget)
        monkeypatch.setattr(Budget, "expired", property(lambda _: True))
        return split_problem(*args, budget=budget, **options)

    monkeypatch.setattr(shared_tree, "split_problem", composed)
    BEAM.run(session, Budget())
    assert given
    assert all(isinstance(budget, Budget) for budget in given)
    assert held_tree(session) is None
    monkeypatch.undo()
    PROOF.run(session, Budget())
    assert session.bracket.verdict == "verified"


def test_a_beam_ends_the_tree_that_branch_and_bound_began(rng: np.random.Generator) -> None:
    """Clauses that are proved between turns are left alone, by either."""
    session = pair(rng, (0.01, 0.02))
    PROOF.run(session, Budget(nodes=5))
    tree = tree_of(session).shared.tree
    assert np.isfinite(tree.least_lower()).all()
    session.prove_clause(0, 0.005, "elsewhere")
    BabAttackEngine(replace(BEAM.options, rounds=10_000)).run(session, Budget())
    assert session.bracket.verdict == "verified"
    assert tree_of(session).shared.tree is tree
    assert np.isfinite(tree.least_lower()).tolist() == [True, False]
    session = pair(rng, (0.01, 0.02))
    BEAM.run(session, Budget())
    before = len(tree_of(session).shared.tree)
    session.prove_clause(1, 0.015, "elsewhere")
    PROOF.run(session, Budget())
    held = tree_of(session)
    assert len(held.shared.tree) >= before > 2
    assert session.bracket.verdict == "verified"


def test_turns_without_time_lose_nothing(rng: np.random.Generator) -> None:
    session = pair(rng, (0.01, 0.02))
    BEAM.run(session, Budget.of_seconds(0.0))
    PROOF.run(session, Budget.of_seconds(0.0))
    PROOF.run(session, Budget(nodes=5))
    BEAM.run(session, Budget.of_seconds(0.0))
    PROOF.run(session, Budget())
    assert session.bracket.verdict == "verified"
    assert tree_of(session).shared.tree.accounting().open == 0
