"""MIP verification and attack against enumeration, sampling and a real network."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest

import closegap as cg
from closegap.attacks.activation.mip_attack import MipAttack, MipAttackOptions
from closegap.core.budget import Budget
from closegap.encode import EncodeOptions, encode
from closegap.graph import ops
from closegap.mip.model import Capabilities, Claim, Model, SolveOptions, Status
from closegap.mip.registry import choose
from closegap.specs.property import Property, robustness_property
from closegap.specs.query import Query
from closegap.specs.region import contains
from closegap.testing.enumeration import clause_margin, interval_bounds, least_clause_margin
from closegap.verify import clause_search
from closegap.verify.clause_search import bound_allowance
from closegap.verify.group_rows import GroupRowOptions, with_group_rows
from closegap.verify.mip import MipOptions, MipVerifier
from tiny_networks import FAMILIES, dense, query, samples

EXACT = MipOptions(solver="scip", stop_when_proved=False)


def budget() -> Budget:
    return Budget.of_seconds(30)


def shifted(q: Query, offset: float) -> Query:
    """The same query with the property's margins raised."""
    return replace(q, prop=replace(q.prop, offsets=q.prop.offsets + offset))


class Liar:
    """A solver that claims what it is told to."""

    name = "liar"
    capabilities = Capabilities(True, True, False, False, True, True)

    def __init__(self, claim: Claim) -> None:
        self.claim = claim

    def installed(self) -> bool:
        return True

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        return self.claim

    def session(self, model: Model):
        raise NotImplementedError


@pytest.fixture
def believe(monkeypatch):
    """Make the verifier ask this solver."""

    def use(claim: Claim) -> None:
        solvers = ((Liar(claim),), "")
        monkeypatch.setattr("closegap.verify.mip.mixed_integer_solvers", lambda name: solvers)

    return use


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_lower_bound_is_just_below_the_enumerated_optimum(family, rng):
    q = query(rng, FAMILIES[family](rng), rows=2, radius=0.4)
    truth = least_clause_margin(q, 0)
    outcome = MipVerifier(EXACT).bound_clause(q, interval_bounds(q), 0, budget())
    assert outcome.status is Status.OPTIMAL, outcome.detail
    assert outcome.lower <= truth
    assert outcome.lower == pytest.approx(truth, abs=2e-3)
    np.testing.assert_allclose(outcome.margins, clause_margin(q, 0, outcome.points), atol=1e-9)
    assert all(contains(q.region, point) for point in outcome.points)
    if "sign" not in family:  # the closure's optimum at a sign's zero is not attained
        assert outcome.margins.min() == pytest.approx(truth, abs=1e-4)


def test_verdicts_on_both_sides_of_the_optimum(rng):
    for family in ("dense", "residual", "pooled"):
        q = query(rng, FAMILIES[family](rng), radius=0.4)
        truth = least_clause_margin(q, 0)
        safe, broken = shifted(q, 0.01 - truth), shifted(q, -0.01 - truth)
        verifier = MipVerifier(MipOptions(solver="scip"))
        assert verifier.bound_clause(safe, interval_bounds(q), 0, budget()).proved
        hit: list[float] = []

        def accept(point, hit=hit, broken=broken):
            hit.append(float(clause_margin(broken, 0, point[None])[0]))
            return hit[-1] < 0

        outcome = verifier.bound_clause(broken, interval_bounds(q), 0, budget(), None, accept)
        assert not outcome.proved and outcome.satisfied
        assert hit[-1] < 0 and outcome.margins.min() < 0


def test_a_margin_within_the_allowance_is_not_proved(rng):
    q = query(rng, FAMILIES["dense"](rng), radius=0.4)
    truth = least_clause_margin(q, 0)
    allowance = bound_allowance(encode(q, interval_bounds(q), clause=0))
    assert 1e-5 <= allowance < 1e-2
    close = shifted(q, 0.5 * allowance - truth)
    outcome = MipVerifier(EXACT).bound_clause(close, interval_bounds(q), 0, budget())
    assert outcome.status is Status.OPTIMAL and not outcome.proved
    assert outcome.lower == pytest.approx(-0.5 * allowance, abs=0.2 * allowance)


@pytest.mark.parametrize(
    ("claim", "word"),
    [
        (Claim(Status.INFEASIBLE, bound=math.inf), "cannot be"),
        (Claim(Status.OPTIMAL, objective=1e3, bound=1e3), "above an attained"),
        (Claim(Status.BOUND_REACHED, bound=1e3), "above an attained"),
        (Claim(Status.FAILED, bound=1.0, detail="crashed"), "liar failed"),
        (Claim(Status.OPTIMAL, bound=math.nan), "liar"),
        (Claim(Status.TIME, bound=-math.inf), "liar"),
    ],
)
def test_claims_that_cannot_be_true_are_withdrawn(claim, word, believe, rng):
    q = query(rng, FAMILIES["dense"](rng))
    believe(claim)
    outcome = MipVerifier().bound_clause(q, interval_bounds(q), 0, budget())
    assert outcome.lower == -math.inf and not outcome.proved
    assert word in outcome.detail


def test_a_failing_solver_is_named_and_the_next_one_is_asked(monkeypatch, rng):
    q = query(rng, FAMILIES["dense"](rng), radius=0.3)
    solvers = (Liar(Claim(Status.FAILED, detail="crashed")), clause_search.backend("scip"))
    monkeypatch.setattr("closegap.verify.mip.mixed_integer_solvers", lambda name: (solvers, "note"))
    outcome = MipVerifier(EXACT).bound_clause(q, interval_bounds(q), 0, budget())
    assert outcome.status is Status.OPTIMAL
    assert "liar failed: crashed" in outcome.detail and "note" in outcome.detail


def test_a_network_without_undecided_neurons_is_a_certified_linear_program(rng):
    q = query(rng, FAMILIES["dense"](rng), radius=0.001)
    outcome = MipVerifier().bound_clause(q, interval_bounds(q), 0, budget())
    truth = clause_margin(q, 0, samples(rng, q, 4000)).min()
    assert outcome.binaries == 0 and outcome.status is Status.OPTIMAL
    assert outcome.lower <= truth and outcome.lower == pytest.approx(truth, abs=1e-3)


def test_smooth_networks_get_a_sound_bound_and_say_that_it_is_a_relaxation(rng):
    for activation in (ops.Tanh(), ops.Sigmoid()):
        q = query(rng, dense(rng, [3, 5, 4, 2], activation), radius=0.05)
        outcome = MipVerifier().bound_clause(q, interval_bounds(q), 0, budget())
        truth = clause_margin(q, 0, samples(rng, q, 4000)).min()
        assert outcome.lower <= truth and outcome.lower > truth - 0.5
        assert "enclosed" in outcome.detail


def test_clauses_share_the_budget_hardest_last(rng):
    net = dense(rng, [3, 5, 4, 4], ops.Relu())
    base = query(rng, net, radius=0.2)
    q = Query(net, base.region, robustness_property(0, 4))
    bounds = interval_bounds(q)
    proved = np.array([-3.0, 0.5, -1.0])
    outcomes = list(MipVerifier(EXACT).bound_clauses(q, bounds, proved, budget()))
    assert [o.clause for o in outcomes] == [2, 0]
    for outcome in outcomes:
        truth = least_clause_margin(q, outcome.clause)
        assert outcome.lower <= truth and outcome.lower == pytest.approx(truth, abs=2e-3)
    first = MipVerifier().bound_clauses(q, bounds, proved, budget(), None, lambda point: True, None)
    assert [o.satisfied for o in first] == [True]
    none = MipVerifier().bound_clauses(q, bounds, proved, Budget.of_seconds(0))
    assert list(none) == []


def test_an_unencodable_query_is_an_answer_not_an_error(rng):
    q = query(rng, FAMILIES["dense"](rng))
    small = MipOptions(encode=EncodeOptions(entries=2))
    outcome = MipVerifier(small).bound_clause(q, interval_bounds(q), 0, budget())
    assert outcome.status is Status.FAILED and "coefficients when written out" in outcome.detail
    late = MipVerifier().bound_clause(q, interval_bounds(q), 0, Budget.of_seconds(0))
    assert late.lower == -math.inf and "time was up" in late.detail


def test_interruption_and_deadline_are_kept(rng):
    """A program no solver closes in a second."""
    net = dense(rng, [20, 60, 60, 2], ops.Relu())
    q = query(rng, net, radius=1.0)
    bounds = interval_bounds(q)
    clause_search.backend("scip").warm_up()
    begun = time.monotonic()
    outcome = MipVerifier().bound_clause(q, bounds, 0, Budget.of_seconds(1.0))
    assert outcome.status is Status.TIME and time.monotonic() - begun < 2.5
    begun = time.monotonic()
    stop = begun + 0.5
    outcome = MipVerifier().bound_clause(
        q, bounds, 0, budget(), None, None, lambda: time.monotonic() > stop
    )
    assert outcome.status is Status.INTERRUPTED and time.monotonic() - begun < 3.0
    assert outcome.lower <= clause_margin(q, 0, samples(rng, q, 1000)).min()


class TestAttack:
    def test_finds_what_random_points_do_not(self, rng):
        q = query(rng, dense(rng, [10, 7, 2], ops.Relu()), radius=0.4)
        truth = least_clause_margin(q, 0)
        tried = samples(rng, q, 2000)
        gap = clause_margin(q, 0, tried).min() - truth
        assert gap > 0
        hard = shifted(q, -truth - min(0.5 * gap, 1e-2))
        assert (clause_margin(hard, 0, tried) > 0).all()
        outcome = MipAttack().run(hard, interval_bounds(q), budget(), starts=list(tried[:5]))
        assert outcome.finished and outcome.margin < 0
        assert all(contains(hard.region, point) for point in outcome.points)
        assert (np.diff(outcome.margins) >= 0).all()
        np.testing.assert_allclose(outcome.margins, clause_margin(hard, 0, outcome.points))

    def test_gives_up_on_what_is_safe(self, rng):
        q = query(rng, FAMILIES["residual"](rng), radius=0.3)
        safe = shifted(q, 0.01 - least_clause_margin(q, 0))
        outcome = MipAttack().run(safe, interval_bounds(q), budget())
        assert outcome.finished and not outcome.margin < 0

    def test_attacks_the_most_promising_clause_first_and_stops_at_the_first_hit(self, rng):
        net = dense(rng, [3, 6, 4], ops.Relu())
        region = query(rng, net, radius=1.0).region
        q = Query(net, region, robustness_property(1, 4))
        starts = list(samples(rng, q, 50))
        seen: list[np.ndarray] = []

        def accept(point):
            seen.append(point)
            return True

        outcome = MipAttack().run(q, interval_bounds(q), budget(), starts, accept)
        assert outcome.finished and len(seen) == len(outcome.points) == 1

    def test_signs_survive_a_replay_in_float32(self, rng):
        net = FAMILIES["sign"](rng)
        q = query(rng, net, radius=0.6)
        outcome = MipAttack(MipAttackOptions(give_up_when_safe=False)).run(
            q, interval_bounds(q), budget(), clauses=[0], on_candidate=lambda point: False
        )
        best = clause_margin(q, 0, samples(rng, q, 20_000)).min()
        assert outcome.margin <= best + 1e-9


def test_a_real_network(data_path):
    """MNIST, 200 ReLUs, eps 0.1: interval bounds, two images."""
    net = cg.load(str(data_path("models/lippa/ADV_MLP_B_0.1.onnx")))
    mnist = np.load(data_path("mnist/t10k.npz"))
    for index in (0, 1):
        image = (mnist["images"][index] / 255).astype(np.float32).reshape(net.input_shape)
        label = int(mnist["labels"][index])
        q = cg.robustness(net, image, label, 0.02)
        bounds = interval_bounds(q)
        encoded = encode(q, bounds, clause=0)
        assert 0 < encoded.binaries < 200
        start = encoded.start_from(image)
        assert encoded.model.violation(start) < 1e-9
        wanted = clause_margin(q, 0, image[None])[0]
        assert encoded.objective_at(start) == pytest.approx(wanted, abs=1e-9)
        outcome = MipVerifier().bound_clause(q, bounds, 0, budget())
        assert outcome.proved, outcome.detail
        assert outcome.lower <= outcome.margins.min()


def test_property_of_many_rows_needs_all_of_them(rng):
    """A clause is met only where every row is: its margin is the greatest of its rows'."""
    net = dense(rng, [3, 5, 4, 3], ops.Relu())
    base = query(rng, net, radius=0.4, rows=3)
    bounds = interval_bounds(base)
    single = [
        Query(
            net,
            base.region,
            Property(
                base.prop.rows[[i]], base.prop.offsets[[i]], np.zeros(1, np.int64), True, ("row",)
            ),
        )
        for i in range(3)
    ]
    whole = MipVerifier(EXACT).bound_clause(base, bounds, 0, budget()).lower
    rows = [MipVerifier(EXACT).bound_clause(s, bounds, 0, budget()).lower for s in single]
    assert whole >= max(rows) - 1e-3


@pytest.mark.parametrize("size", [2, 4])
def test_rows_over_groups_hold_and_tighten(size: int, rng: np.random.Generator) -> None:
    gains = []
    for _ in range(2):
        q = query(rng, dense(rng, [3, 5, 5, 2], ops.Relu()), radius=0.9)
        bounds = interval_bounds(q)
        encoded = encode(q, bounds, clause=0)
        options = GroupRowOptions(rows=20, size=size)
        wider = with_group_rows(encoded, bounds, options, budget())
        for point in samples(rng, q, 500):
            values = wider.start_from(point)
            assert (wider.model.matrix @ values >= wider.model.row_lower - 1e-9).all()
        relaxed = [
            choose("lp")[0].solve(
                replace(e.model, integer=np.zeros(e.model.columns, bool)), SolveOptions()
            )
            for e in (encoded, wider)
        ]
        gains.append(relaxed[1].objective - relaxed[0].objective)
        least = least_clause_margin(q, 0)
        found = MipVerifier(replace(EXACT, groups=options)).bound_clause(q, bounds, 0, budget())
        assert least - 1e-3 <= found.lower <= least + 1e-9
        assert relaxed[1].objective <= least + 1e-6
    assert min(gains) > -1e-7 and max(gains) > 1e-3
