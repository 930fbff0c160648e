"""BaB-Attack's searches against enumeration, sampling, hung solvers and the clock."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from onnx import helper

from closegap.attacks.activation.bab_attack.arena import Arena, Polish
from closegap.attacks.activation.bab_attack.attack import BabAttack, BabAttackOptions
from closegap.attacks.activation.bab_attack.beam import BeamSearch
from closegap.attacks.activation.bab_attack.bottom_up import (
    BottomUp,
    BottomUpSearch,
    SubSearch,
    shared_inputs,
)
from closegap.attacks.activation.bab_attack.dive import Dive, DiveSearch
from closegap.attacks.activation.bab_attack.fixing import Fixing, UnitBounds, implied, unit_bounds
from closegap.attacks.activation.bab_attack.hops import HopSearch, near_clauses
from closegap.attacks.activation.bab_attack.subprogram import SubProgram
from closegap.attacks.activation.bab_attack.subtree import SubTree
from closegap.attacks.activation.bab_attack.tree import TreeOptions, sampling_odds
from closegap.attacks.activation.cells import UnitLayer, UnitNetwork
from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.activation.region import region_problem
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.hopping import hop_pgd
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.outcome import AttackInterrupted
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.frontend import loads
from closegap.mip.model import Status
from closegap.specs.query import Query, robustness
from closegap.specs.region import contains
from closegap.testing.enumeration import clause_margin, least_clause_margin
from closegap.testing.networks import onnx_model, random_leaky, random_mlp, random_sigmoid
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.domains import DomainBatch, DomainResult
from hanging import HangingSolver
from tiny_networks import pooled, query, residual, samples

QUICK = replace(hop_pgd(AttackOptions(steps=2, restarts=2)), hops=1)
BUILDERS = {
    "mlp": lambda rng: random_mlp(rng, [2, 3, 3, 3]),
    "leaky": lambda rng: random_leaky(rng, [2, 4, 3]),
    "pooled": pooled,
    "residual": residual,
}


def arena_of(asked: Query, budget: Budget | None = None) -> Arena:
    spend = budget or Budget()
    problem = region_problem(asked, spend)
    assert problem is not None
    arena = Arena(problem, Harvest(asked, lambda _: False), spend, 50, Polish(steps=3, lanes=2))
    ground = problem.ground
    size = (5, len(ground.lower))
    arena.offer(np.random.default_rng(1).uniform(ground.lower, ground.upper, size))
    return arena


def hard(rng: np.random.Generator, count: int = 40) -> Query:
    """A query that no candidate breaks, and that linear bounds do not prove."""
    asked = query(rng, random_mlp(rng, [6, count, count, 3]), radius=0.4)
    margins = clause_margin(asked, 0, samples(rng, asked, 2000))
    offsets = asked.prop.offsets - margins.min() + 0.6 * np.ptp(margins)
    return replace(asked, prop=replace(asked.prop, offsets=offsets))


@pytest.mark.parametrize("kind", BUILDERS)
def test_implied_bounds_hold_wherever_the_phases_do(rng: np.random.Generator, kind: str) -> None:
    arena = arena_of(query(rng, BUILDERS[kind](rng), radius=0.8))
    problem, units = arena.problem, arena.problem.units
    points = rng.uniform(problem.ground.lower, problem.ground.upper, (400, units.inputs))
    phases = units.phases(points)
    for own in phases[:20]:
        free = rng.random(units.units) < 0.5
        phase = np.where(free, 0, np.where(own, 1, -1)).astype(np.int8)
        bounds = implied(problem, unit_bounds(problem), phase)
        for point in points[(phases == own)[:, ~free].all(axis=1)]:
            values = units.pre_activations(point)
            assert (values >= bounds.lower - 1e-9).all()
            assert (values <= bounds.upper + 1e-9).all()


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_neighbourhood_of_everything_gives_the_least_margin(
    rng: np.random.Generator, kind: str
) -> None:
    asked = query(rng, BUILDERS[kind](rng))
    arena = arena_of(asked)
    search = BottomUpSearch(BottomUp(first=arena.problem.units.units), arena)
    search.step()
    assert search.exhausted
    least = least_clause_margin(asked, 0)
    assert arena.pool.best(1)[0].margin == pytest.approx(least, abs=1e-5)


def test_a_part_is_searched_within_its_phases(rng: np.random.Generator) -> None:
    arena = arena_of(hard(rng, 10))
    (start,) = arena.starts(1)
    phase = np.where(start.pattern, 1, -1).astype(np.int8)
    phase[rng.random(len(phase)) < 0.3] = 0
    bounds = implied(arena.problem, unit_bounds(arena.problem), phase)
    found: list[np.ndarray] = []
    offer = arena.offer
    arena.offer = lambda points: found.extend(points) or offer(points)  # type: ignore[method-assign]
    arena.polish = lambda points: None  # type: ignore[method-assign]
    status = SubProgram(hopeless=2.0).search(
        arena, Fixing(0, phase, start.margin, start.point), bounds
    )
    assert status is Status.OPTIMAL
    assert found
    for point in found:
        depth = arena.problem.units.pre_activations(point) * phase
        assert (depth >= -1e-5).all()


def test_units_around_one_read_its_inputs(rng: np.random.Generator) -> None:
    """Two layers of two halves that read an input each; one unit reads nothing."""
    first = np.kron(np.eye(2), np.ones((4, 1))) * rng.uniform(0.5, 1.5, (8, 1))
    second = np.kron(np.eye(2), np.ones((3, 4)))
    second[-1] = 0.0
    units = UnitNetwork(
        layers=(
            UnitLayer(first, np.zeros(8), 0.0, 0),
            UnitLayer(np.hstack([np.zeros((6, 2)), second]), np.zeros(6), 0.0, 8),
        ),
        weight=np.ones((1, 16)),
        bias=np.zeros(1),
        inputs=2,
    )
    cell = units.cell(np.ones(14, np.bool_))
    half = np.array([0] * 4 + [1] * 4 + [0] * 3 + [1] * 2 + [2])
    for middle in range(13):
        np.testing.assert_array_equal(shared_inputs(cell, middle), half == half[middle])
    assert not shared_inputs(cell, 13).any()


def test_an_empty_part_costs_no_solver(rng: np.random.Generator) -> None:
    arena = arena_of(hard(rng, 10))
    bounds = unit_bounds(arena.problem)
    none = replace(bounds, lower=bounds.upper + 1)
    phase = np.zeros(len(none.lower), dtype=np.int8)
    assert (
        SubProgram(solver="nothing").search(arena, Fixing(0, phase, np.inf), none)
        is Status.INFEASIBLE
    )


def test_what_is_known_is_not_lost(rng: np.random.Generator) -> None:
    """Also where nothing but gradient runs is for such a network."""
    asked = query(rng, random_sigmoid(rng, [3, 5, 2]))
    points = samples(rng, asked, 300).astype(np.float32)
    margins = clause_margin(asked, 0, points)
    higher = replace(asked.prop, offsets=asked.prop.offsets - margins.min() + 1.0)
    weak = Descent("weak", start=CenterStart(), steps=1, step_size=1e-3)
    attack = BabAttack(BabAttackOptions(hopping=replace(QUICK, hops=1, descent=weak)))
    outcome = attack.attack_query(
        replace(asked, prop=higher), Budget(), starts=[points[margins.argmin()]]
    )
    assert outcome.margin <= 1.0 + 1e-5


def test_the_same_seed_finds_the_same_points(rng: np.random.Generator) -> None:
    asked = hard(rng, 8)
    small = BottomUp(first=4, most=8)
    options = BabAttackOptions(hopping=QUICK, rounds=2, bottom_up=small)
    one, other = (BabAttack(options).attack_query(asked, Budget(seed=3)) for _ in range(2))
    np.testing.assert_array_equal(one.points, other.points)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_solver_that_hangs_does_not_keep_the_attack(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    hanging = HangingSolver(monkeypatch, f"deaf{threads}")
    options = BabAttackOptions(
        hopping=QUICK, walks=0, bottom_up=BottomUp(program=SubProgram(solver=f"deaf{threads}"))
    )
    begun = time.monotonic()
    outcome = BabAttack(options).attack_query(hard(rng), Budget.of_seconds(1.5, threads=threads))
    assert time.monotonic() - begun < 2.5
    assert hanging.killed
    assert not outcome.finished
    assert not hanging.left()


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_attack_hands_over_what_it_found(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """And no other worker goes on until the deadline."""

    def interrupted(search: BottomUpSearch) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BottomUpSearch, "step", interrupted)
    options = BabAttackOptions(hopping=QUICK, walks=0, hops=0)
    asked, begun = hard(rng), time.monotonic()
    with pytest.raises(AttackInterrupted) as stopped:
        BabAttack(options).attack_query(asked, Budget.of_seconds(60.0, threads=threads))
    assert time.monotonic() - begun < 10
    outcome = stopped.value.outcomes[0]
    assert not outcome.finished
    assert len(outcome.points)
    assert all(contains(asked.region, point) for point in outcome.points)


@pytest.mark.parametrize("name", ["lns", "dive", "beam", "bab-attack"])
def test_every_variant_keeps_its_deadline(rng: np.random.Generator, name: str) -> None:
    attack = make_attack(name, AttackOptions(steps=5, restarts=4))
    assert isinstance(attack, BabAttack)
    asked = hard(rng, 60)
    begun = time.monotonic()
    outcome = attack.attack_query(asked, Budget.of_seconds(1.5, threads=2))
    assert time.monotonic() - begun < 2.5
    assert not outcome.finished


def test_a_beam_keeps_the_limit_of_nodes(rng: np.random.Generator) -> None:
    arena = arena_of(hard(rng, 60), Budget(nodes=50))
    bounded: list[int] = []
    beam = BeamSearch(TreeOptions(beam=2, levels=2), arena, [0])
    bound = DomainBounder.bound

    def counted(self: DomainBounder, batch: DomainBatch, budget: Budget) -> DomainResult:
        bounded.append(len(batch.root))
        return bound(self, batch, budget)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DomainBounder, "bound", counted)
        for _ in range(40):
            beam.step()
    assert 20 < sum(bounded) <= 66


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("kind", BUILDERS)
def test_our_own_search_of_everything_gives_the_least_margin(
    rng: np.random.Generator, kind: str, folded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at a margin just above the least one, it comes below; just below, it finds nothing.

    Whether stable neurons are folded away, or stay because dense products would cost more.
    """
    if not folded:
        monkeypatch.setattr("closegap.verify.bab.problem.condensed", lambda *_args, **_more: None)
    asked = query(rng, BUILDERS[kind](rng))
    least = least_clause_margin(asked, 0)
    arena = arena_of(asked)
    bounds = unit_bounds(arena.problem)
    free = np.zeros(arena.problem.units.units, np.int8)
    search = SubTree(hopeless=1.0, seconds=60.0)
    for goal, reached in ((least + 0.01, True), (least - 0.01, False)):
        shifted = asked.prop.offsets - least + 1.0
        moved = arena_of(replace(asked, prop=replace(asked.prop, offsets=shifted)))
        status = search.search(moved, Fixing(0, free, goal - least + 1.0), bounds)
        assert status is Status.OPTIMAL
        assert (moved.pool.best(1)[0].margin < goal - least + 1.0) == reached


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_complete_beam_is_enumeration(rng: np.random.Generator, kind: str) -> None:
    """Every clause is proved iff its least margin is positive, and broken iff it is not."""
    asked = query(rng, BUILDERS[kind](rng))
    least = least_clause_margin(asked, 0)
    for shift in (0.05, -0.05):
        offsets = asked.prop.offsets - least + shift
        moved = replace(asked, prop=replace(asked.prop, offsets=offsets))
        proved, broken = beam_search(moved)
        assert proved == (shift > 0)
        assert broken == (shift < 0)


def beam_search(asked: Query) -> tuple[bool, bool]:
    """Whether a beam that runs to its end proves the only clause, and whether it is broken."""
    harvest, problem = Harvest(asked), region_problem(asked, Budget())
    assert problem is not None
    arena = Arena(problem, harvest, Budget(), 50, Polish(steps=3, lanes=2))
    proved: list[float] = []
    sizes = TreeOptions(beam=3, levels=2)
    beam = BeamSearch(sizes, arena, [0], lambda clause, lower: proved.append(lower))
    while not arena.done:
        beam.step()
    return bool(proved) and proved[0] > 0, harvest.done


def test_near_clauses_are_those_at_most_twice_the_least() -> None:
    assert near_clauses(np.array([3.0, 1.0, np.inf, 2.0, 2.1])).tolist() == [1, 3]
    assert near_clauses(np.zeros(0)).tolist() == []


def test_hops_leave_the_clause_they_fell_for_first() -> None:
    # Margins 1 - x0 / 2 and 1 - 18 relu(x1 - 0.95): nearly everywhere the first is nearer.
    steep = {"w0": np.eye(2), "b0": np.array([0.0, -0.95])}
    outputs = {"w1": np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 18.0]]), "b1": np.array([1.0, 0, 0])}
    layers = "Gemm input w0 b0 a,Relu a h,Gemm h w1 b1 output"
    parts = [step.split() for step in layers.split(",")]
    nodes = [
        helper.make_node(op, names, [out], **({"transB": 1} if op == "Gemm" else {}))
        for op, *names, out in parts
    ]
    net = loads(onnx_model(nodes, steep | outputs, ["N", 2]))
    asked = robustness(net, np.full(2, 0.5, dtype=np.float32), 0, 0.5)
    arena = arena_of(asked, Budget(seed=1))
    hops = HopSearch(QUICK, arena)
    margins = []
    for _ in range(3):
        hops.step()
        margins.append(min(candidate.margin for candidate in arena.pool.best(1)))
    assert margins[1] == pytest.approx(0.5)
    assert margins[2] == pytest.approx(0.1, rel=1e-4)


def test_worse_bounds_are_sampled_more_often() -> None:
    odds = sampling_odds(np.array([-2.0, -1.0, -0.1, -np.inf]), 0.1)
    assert odds.sum() == pytest.approx(1.0)
    assert odds[0] > 100 * odds[1] > 100 * odds[2] > 0
    assert odds[3] == pytest.approx(odds[0])


def test_a_dive_fixes_what_the_pool_agrees_on(rng: np.random.Generator) -> None:
    """Everything fixed is the majority's, or was given; nothing fixed was implied already."""
    arena = arena_of(hard(rng, 12))
    parts: list[tuple[Fixing, UnitBounds]] = []

    class Seen:
        def search(self, arena: Arena, part: Fixing, bounds: UnitBounds) -> Status:
            parts.append((part, bounds))
            return Status.INFEASIBLE if len(parts) < 4 else Status.TIME

    units = arena.problem.units.units
    given = np.zeros(units, np.int8)
    given[3] = -1
    search = DiveSearch(Dive(ratio=0.6, change=0.1, program=Seen()), arena, lambda: (0, given))
    ratios = []
    for _ in range(5):
        search.step()
        ratios.append(search.ratio)
    np.testing.assert_allclose(ratios, [0.5, 0.4, 0.3, 0.4, 0.5])
    majority = np.where(arena.pool.majority(), 1, -1)
    for part, bounds in parts:
        assert part.phase[3] == -1
        own = part.phase.copy()
        own[3] = 0
        assert (own[own != 0] == majority[own != 0]).all()
        assert not bounds.exclude(part.phase) or bounds.undecided.any()


def test_what_breaks_is_inside_and_strictly_broken(rng: np.random.Generator) -> None:
    for _ in range(3):
        asked = robustness(random_mlp(rng, [2, 4, 4, 3]), rng.random(2), 0, 0.3)
        outcome = BabAttack(BabAttackOptions(hopping=QUICK, walks=0, rounds=2)).attack_query(
            asked, Budget()
        )
        assert all(contains(asked.region, point) for point in outcome.points)
        least = min(least_clause_margin(asked, k) for k in range(asked.prop.clauses))
        assert outcome.margin == pytest.approx(least, abs=1e-4) or outcome.margin < 0
        assert (outcome.margin < 0) == (least < 0)


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(OptionError, match="workers"):
        BabAttackOptions(workers=0)
    with pytest.raises(OptionError, match="no search"):
        BabAttackOptions(hops=0, bottom_up=None, dive=None, beam=None)


def test_both_kinds_of_search_are_one_seam() -> None:
    assert isinstance(SubProgram(), SubSearch)
