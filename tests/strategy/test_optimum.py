"""The least margin itself: against enumeration, and what happens where it cannot be closed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from closegap.core.errors import OptionError, SoundnessError
from closegap.core.numerics import OPTIMUM_TOLERANCE
from closegap.core.verdict import Reason, Verdict
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box, lp_ball
from closegap.strategy.engines import ENGINES
from closegap.strategy.optimum import is_closed
from closegap.strategy.session import Session
from closegap.strategy.solve import solve
from closegap.testing import networks
from closegap.testing.enumeration import clause_margin, least_clause_margin

PROVERS = ("pgd", "alpha-crown", "region-walk", "bab")


def asked(seed: int, *, norm: float = math.inf, offset: float = 0.0) -> tuple[Query, float]:
    """A query of two clauses, the second of two rows, and its least margin."""
    rng = np.random.default_rng(seed)
    network = networks.random_mlp(rng, [2, 5, 4, 3])
    prop = Property(
        rng.normal(size=(3, 3)), np.full(3, offset), np.array([0, 1, 1]), True, ("one", "two")
    )
    center = rng.uniform(0.3, 0.7, 2).astype(np.float32)
    query = Query(network, lp_ball(center, 0.2, norm=norm), prop, center=center)
    return query, min(least_clause_margin(query, clause) for clause in range(2))


@pytest.mark.parametrize("norm", [math.inf, 1])
@pytest.mark.parametrize("offset", [-3.0, 0.0, 3.0])
def test_both_ends_meet_at_the_optimum(offset: float, norm: float) -> None:
    for seed in range(3):
        query, least = asked(seed, norm=norm, offset=offset)
        result = solve(query, timeout=90, engines=PROVERS, optimum=True)
        scale = max(1.0, abs(least))
        assert is_closed(result.bracket), result.detail
        assert result.bracket.lower <= least + 1e-9 * scale
        assert result.bracket.lower == pytest.approx(least, abs=2 * OPTIMUM_TOLERANCE * scale)
        assert result.bracket.upper == pytest.approx(least, abs=2 * OPTIMUM_TOLERANCE * scale)
        assert result.verdict is (Verdict.VERIFIED if least > 0 else Verdict.FALSIFIED)
        assert result.witness.margin == result.bracket.upper
        assert result.reason is None
        lower = [event.lower for event in result.history]
        assert lower == sorted(lower)


@pytest.mark.parametrize("engine", ["input-split", "layered", "cuts", "mip"])
def test_every_tree_serves(engine: str) -> None:
    query, least = asked(1)
    result = solve(query, timeout=90, engines=("pgd", "region-walk", engine), optimum=True)
    wide = 5e-5 if engine == "mip" else 1e-5
    assert result.bracket.lower <= least + 1e-9
    assert result.bracket.upper - result.bracket.lower < wide, result.detail


def test_a_smooth_network_is_closed_from_both_sides() -> None:
    rng = np.random.default_rng(5)
    network = networks.random_tanh(rng, [2, 3, 2])
    prop = Property(np.array([[1.0, -1.0]]), np.zeros(1), np.zeros(1, np.int64), True, ("one",))
    query = Query(network, Box(np.zeros(2), np.full(2, 0.2)), prop)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 0.2, 200)] * 2), -1).reshape(-1, 2)
    least = clause_margin(query, 0, grid).min()
    result = solve(query, timeout=10, engines=("pgd", "input-split"), optimum=True)
    assert result.bracket.lower <= least
    assert result.bracket.upper - result.bracket.lower < 1e-4
    assert abs(result.bracket.upper - least) < 1e-3


def test_no_time_says_what_is_open() -> None:
    query, least = asked(1, offset=-5.0)
    result = solve(query, timeout=0.0, optimum=True)
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.TIME)
    result = solve(query, timeout=90, engines=("crown",), optimum=True)
    assert result.verdict is Verdict.FALSIFIED
    assert result.bracket.lower <= least <= result.bracket.upper
    assert "not known exactly" in result.detail


def test_a_point_of_no_size_is_its_own_optimum() -> None:
    query, _ = asked(3)
    point = replace(query, region=lp_ball(query.center, 0.0))
    result = solve(point, timeout=10, optimum=True, engines=PROVERS)
    assert is_closed(result.bracket)


def test_a_softmax_has_no_least_margin() -> None:
    query, _ = asked(0)
    network = replace(query.network, softmax_dropped=True)
    rows = np.array([[1.0, -1.0, 0.0]])
    prop = Property(rows, np.zeros(1), np.zeros(1, np.int64), True, ("one",))
    with pytest.raises(OptionError, match="Softmax"):
        solve(Query(network, query.region, prop), optimum=True)


def test_a_proof_above_a_point_is_never_an_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    query, _ = asked(1)

    class Perjurer:
        def run(self, session: Session, budget: object) -> None:
            for clause in range(2):
                session.prove_clause(clause, 1e-2, "perjurer")

    monkeypatch.setitem(ENGINES, "perjurer", Perjurer)
    with pytest.raises(SoundnessError, match="perjurer proved"):
        solve(query, engines=("pgd", "region-walk", "perjurer"), optimum=True)
