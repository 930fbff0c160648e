"""Layers bounded again under splits: sound on samples, and deciding what enumeration decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from test_bab import Judge

from branching_cases import RELU_KINDS, cases
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.errors import SolverError
from closegap.graph import ops
from closegap.runtime.torch_network import forward_node
from closegap.specs.query import Query
from closegap.verify.bab.leaves import LeafPrograms, LeafResult
from closegap.verify.bab.pace import Pace
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.bab.walls import Walls
from closegap.verify.incomplete import LinearVerifier
from closegap.verify.layered.bounder import LayeredBounder
from closegap.verify.layered.chain import LayerChain
from closegap.verify.layered.halfspaces import HalfSpaces, least_under
from closegap.verify.layered.known import DomainStore, Known
from closegap.verify.layered.search import LayeredOptions, LayeredSearch
from tiny_networks import dense
from tiny_networks import query as random_query

CLIMB = AscentOptions(iterations=3, slope_rate=0.5)
LAZY = LayeredOptions(batch=8, climb=AscentOptions(iterations=4, patience=2), steps=3)


def problem_of(query: Query) -> SplitProblem:
    bounds = LinearVerifier(query).activations(Budget())
    problem = split_problem(query, bounds, np.arange(query.prop.clauses))
    assert problem is not None
    return problem


def test_least_under_half_spaces_is_below_the_program_and_near_it(
    rng: np.random.Generator,
) -> None:
    size, cuts, rows = 6, 3, 4
    lower, upper = -rng.random(size), rng.random(size)
    normals, offsets = rng.normal(size=(2, cuts, size)), 0.2 * rng.normal(size=(2, cuts)) - 0.3
    targets = rng.normal(size=(2, rows, size))
    spaces = HalfSpaces(torch.tensor(normals), torch.tensor(offsets))
    box = torch.tensor(lower), torch.tensor(upper)
    best = least_under(spaces, torch.tensor(targets), *box, 60)
    value, rounding = best.value, best.rounding
    plain = least_under(spaces, torch.tensor(targets), *box, 1).value
    for domain in range(2):
        for row in range(rows):
            program = linprog(
                targets[domain, row],
                A_ub=normals[domain],
                b_ub=-offsets[domain],
                bounds=np.stack([lower, upper], axis=1),
            )
            assert program.status == 0
            found = float(value[domain, row])
            assert found - float(rounding[domain, row]) <= program.fun + 1e-9
            assert found >= program.fun - 0.05
            assert found >= float(plain[domain, row]) - 1e-9


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_least_values_stay_below_the_dual_in_exact_arithmetic(
    precision: str, rng: np.random.Generator
) -> None:
    size, cuts, rows = 300, 5, 8
    lower = rng.random(size)
    upper = lower + 10.0 ** rng.uniform(-6, 0, size)
    normals, offsets = rng.normal(size=(1, cuts, size)), rng.normal(size=(1, cuts))
    targets = rng.normal(size=(1, rows, size)) * 10.0 ** rng.uniform(-4, 4, (1, rows, 1))
    spaces = HalfSpaces(torch.tensor(normals), torch.tensor(offsets))
    torch.set_float32_matmul_precision(precision)
    try:
        box = torch.tensor(lower), torch.tensor(upper)
        found = least_under(spaces, torch.tensor(targets), *box, 6)
    finally:
        torch.set_float32_matmul_precision("highest")
    for row in range(rows):
        beta = [Fraction(b) for b in found.multipliers[0, row].tolist()]
        moved = [
            Fraction(t) + sum(b * Fraction(n) for b, n in zip(beta, column, strict=True))
            for t, column in zip(targets[0, row].tolist(), normals[0].T.tolist(), strict=True)
        ]
        ends = zip(moved, lower.tolist(), upper.tolist(), strict=True)
        dual = sum(m * Fraction(low if m > 0 else high) for m, low, high in ends)
        dual += sum(b * Fraction(o) for b, o in zip(beta, offsets[0].tolist(), strict=True))
        value, rounding = float(found.value[0, row]), float(found.rounding[0, row])
        assert Fraction(value) - Fraction(rounding) <= dual
        assert abs(float(dual) - value) <= rounding <= 1e-3 * (1 + np.abs(targets[0, row]).sum())


def test_widths_that_single_precision_loses_still_count() -> None:
    lower, upper = torch.zeros(2).double(), torch.tensor([1e-42, 1e-46], dtype=torch.float64)
    rows = torch.tensor([[[-1.0, -7e20]]], dtype=torch.float64)
    found = least_under(HalfSpaces.none(1, 2), rows, lower, upper, 1)
    least = -1e-42 - 7e20 * 1e-46
    assert least - 1e-8 <= float(found.value - found.rounding) <= least


def test_an_unknown_precision_is_none(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed() -> str:
        raise RuntimeError("the precision was set for some backends alone")

    rows, normals = torch.tensor(rng.normal(size=(2, 1, 3, 4)))
    spaces = HalfSpaces(normals, torch.zeros(1, 3, dtype=torch.float64))
    box = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    wide = least_under(spaces, rows, *box, 3).rounding
    monkeypatch.setattr(torch, "get_float32_matmul_precision", mixed)
    found = least_under(spaces, rows, *box, 3)
    assert found.multipliers.dtype == torch.float64
    assert (found.rounding < wide).all()


def test_an_empty_cut_has_no_least_value() -> None:
    spaces = HalfSpaces(torch.tensor([[[1.0]]]).double(), torch.tensor([[3.0]]).double())
    box = torch.tensor([-1.0]).double(), torch.tensor([1.0]).double()
    found = least_under(spaces, torch.tensor([[[1.0]]]).double(), *box, 40)
    assert float(found.value) > 1  # beyond everything the box holds


@pytest.mark.parametrize("kind", ["dense", "leaky", "narrow residual", "convolutional"])
def test_bounds_hold_wherever_the_splits_do(kind: str, rng: np.random.Generator) -> None:
    for case in cases(rng, RELU_KINDS[kind], 1):
        problem = problem_of(case.query)
        if not problem.units:
            continue
        region = problem.exact_region
        share = torch.rand(2000, *region.lower.shape[1:], dtype=torch.float64)
        values = every_value(problem, region.lower + share * (region.upper - region.lower))
        signs = rng.integers(-1, 2, size=(6, problem.units)).astype(np.int8)
        walls = Walls.at_zero(signs)
        chain = LayerChain(problem, 3, CLIMB).bound(
            walls, nothing(problem, 6), no_cuts(problem, 6), Budget()
        )
        store = DomainStore(problem.units, region.lower[0].numel(), len(problem.rows), 1)
        root = store.root().select(np.zeros(6, np.int64))
        output = LayeredBounder(problem, AscentOptions(iterations=3), 3, CLIMB).bound(
            walls, root, Budget()
        )
        again = LayeredBounder(problem, AscentOptions(iterations=3), 3, CLIMB).bound(
            walls, output.known, Budget()
        )
        for domain in range(6):
            inside = holds(problem, values, signs[domain])
            assert not (bool(chain.empty[domain]) and bool(inside.any()))
            for layer in problem.layers:
                at = chain.bounds[layer.feed].select(torch.tensor([domain]))
                assert (values[layer.feed][inside] >= at.lower).all()
                assert (values[layer.feed][inside] <= at.upper).all()
            margins = [
                (values[-1][inside].flatten(1) @ rows.T + offsets).amax(1)
                for rows, offsets in zip(problem.rows, problem.offsets, strict=True)
            ]
            broken = torch.stack(margins, dim=1) <= 0
            for found in (output, again):
                least = min(float(m.min()) if len(m) else np.inf for m in margins)
                assert least >= min(float(found.lower[domain]), 0.0)
                assert not bool(broken[:, ~found.known.open_[domain]].any())
            hold_what_is_known(problem, values, inside, broken, again.known, domain)


def hold_what_is_known(
    problem: SplitProblem,
    values: list[torch.Tensor],
    inside: torch.Tensor,
    broken: torch.Tensor,
    known: Known,
    domain: int,
) -> None:
    """Bounds and half-spaces that a domain hands on hold at every sample that breaks a clause."""
    some = broken.any(dim=1)
    points = values[0][inside][some].flatten(1)
    for layer in problem.layers:
        units = values[layer.feed][inside][some].flatten(1)[:, layer.indices]
        part = known.units.of_units(layer.units)
        assert (units >= part.low[domain]).all()
        assert (units <= part.high[domain]).all()
    spaces = known.spaces()
    assert (points @ spaces.normals[domain, 0] + spaces.offsets[domain, 0] <= 0).all()


def nothing(problem: SplitProblem, count: int) -> Walls:
    return Walls.at_zero(np.zeros((count, problem.units), np.int8))


def no_cuts(problem: SplitProblem, count: int) -> HalfSpaces:
    return HalfSpaces.none(count, problem.exact_region.lower[0].numel())


def every_value(problem: SplitProblem, points: torch.Tensor) -> list[torch.Tensor]:
    network, values = problem.exact, [points]
    for index, node in enumerate(network.network.nodes[1:], start=1):
        inputs = [values[p] for p in node.inputs]
        values.append(forward_node(node, network.weights[index], inputs))
    return values


def holds(problem: SplitProblem, values: list[torch.Tensor], signs: np.ndarray) -> torch.Tensor:
    inside = torch.ones(len(values[0]), dtype=torch.bool)
    for layer in problem.layers:
        units = values[layer.feed].flatten(1)[:, layer.indices]
        inside &= (units * torch.as_tensor(signs[layer.units]) >= 0).all(dim=1)
    return inside


@pytest.mark.parametrize("kind", ["dense", "leaky", "narrow residual", "convolutional"])
@pytest.mark.parametrize("clauses", [(1,), (2, 1)])
def test_verdicts_agree_with_enumeration(
    kind: str, clauses: tuple[int, ...], rng: np.random.Generator
) -> None:
    for case in cases(rng, RELU_KINDS[kind], 1, clauses=clauses):
        judge = Judge(case.query)
        search = LayeredSearch(problem_of(case.query), LAZY, judge)
        outcome = search.run(Budget.of_seconds(30))
        assert outcome.accounting.balanced
        if case.margin > 0:
            assert np.isposinf(outcome.lower)
            assert not outcome.broken
        else:
            assert outcome.broken
            assert outcome.lower <= case.margin


def test_turns_lose_no_domain_that_time_left_undecided(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve, calls = LeafPrograms.solve, []

    def late(programs: LeafPrograms, root: np.ndarray, walls: Walls, budget: Budget) -> LeafResult:
        calls.append(len(root))
        found = solve(programs, root, walls, Budget(0.0) if len(calls) % 2 else Budget())
        assert found.tried.all() == (len(calls) % 2 == 0)
        return found

    monkeypatch.setattr(LeafPrograms, "solve", late)
    for case in cases(rng, RELU_KINDS["dense"], 1, clauses=(2, 1)):
        judge = Judge(case.query)
        search = LayeredSearch(problem_of(case.query), LAZY, judge)
        outcome = search.run(Budget(0.0))
        for _ in range(10_000):
            if outcome.broken or not outcome.accounting.open:
                break
            assert outcome.lower <= case.margin
            outcome = search.run(Budget.of_seconds(0.3))
        assert outcome.accounting.balanced
        assert outcome.broken == (case.margin <= 0)
        assert np.isposinf(outcome.lower) == (case.margin > 0)
    assert calls


@pytest.mark.parametrize("own", [False, True])
def test_a_node_limit_is_kept_and_what_it_leaves_is_decided_later(
    own: bool, rng: np.random.Generator
) -> None:
    cut = 0
    for case in cases(rng, RELU_KINDS["dense"], 1, clauses=(2, 1)):
        for most in (0, 1, 2, 4, 9):
            judge = Judge(case.query)
            options, limit = (replace(LAZY, nodes=most), None) if own else (LAZY, most)
            search = LayeredSearch(problem_of(case.query), options, judge)
            found = search.run(Budget(nodes=limit))
            count = found.accounting
            assert count.balanced
            assert count.created <= max(1, most)
            assert found.full == (count.open > 0 and count.created + 2 > most)
            assert min(found.lower, 0.0) <= case.margin
            cut += found.full and not found.broken
            if not own:
                found = found if found.broken else search.run(Budget())
                assert found.broken == (case.margin <= 0)
                assert np.isposinf(found.lower) == (case.margin > 0)
                assert not found.full
    assert cut > 0


def test_under_a_node_limit_a_tree_does_not_follow_the_clock(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = random_query(rng, dense(rng, [4, 12, 12, 12, 2], ops.Relu()), radius=1.0)
    found = []
    for slow in (1, 3, 100):
        monkeypatch.setattr(Pace, "batch", lambda self, left, slow=slow: slow)
        search = LayeredSearch(problem_of(query), LAZY, lambda points: False)
        found.append(search.run(Budget(nodes=41)))
    assert [outcome.accounting for outcome in found] == [found[0].accounting] * 3
    assert [outcome.lower for outcome in found] == [found[0].lower] * 3
    assert found[0].accounting.created == 41


class Steps:
    """Keeps every state of a search."""

    due = True

    def __init__(self) -> None:
        self.states: list[Mapping[str, np.ndarray]] = []

    def keep(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.states.append(arrays)


def test_a_search_goes_on_from_any_step_to_the_same_end(rng: np.random.Generator) -> None:
    query = random_query(rng, dense(rng, [4, 12, 12, 12, 2], ops.Relu()), radius=1.0)
    steps, budget = Steps(), Budget(nodes=61)
    end = LayeredSearch(problem_of(query), LAZY, lambda points: False).run(budget, steps)
    assert end.accounting.created == 61
    for state in steps.states[:-1]:
        again = LayeredSearch(problem_of(query), LAZY, lambda points: False)
        again.resume(state)
        found = again.run(budget)
        assert found.accounting == end.accounting
        assert found.lower == end.lower
    assert len(steps.states) > 3


def test_climbing_tightens_layers_and_leaves_what_splits_are_judged_by(
    rng: np.random.Generator,
) -> None:
    query = random_query(rng, dense(rng, [4, 8, 8, 8, 2], ops.Relu()), radius=0.4)
    problem = problem_of(query)
    known = nothing(problem, 1), nothing(problem, 1), no_cuts(problem, 1), Budget()
    plain, climbed = (
        LayerChain(problem, 0, climb).bound(*known)
        for climb in (AscentOptions(iterations=1), CLIMB)
    )
    last, second = problem.layers[-1].feed, problem.layers[1].feed
    widths = [float((c.bounds[last].upper - c.bounds[last].lower).sum()) for c in (plain, climbed)]
    assert widths[1] < widths[0]
    for index, part in plain.passes[second].incoming.items():
        assert torch.equal(part, climbed.passes[second].incoming[index])


def test_splitting_early_layers_pays_more_than_with_bounds_of_the_root(
    rng: np.random.Generator,
) -> None:
    query = random_query(rng, dense(rng, [4, 8, 8, 8, 2], ops.Relu()), radius=0.4)
    problem = problem_of(query)
    first = problem.layers[0]
    signs = np.zeros((1, problem.units), np.int8)
    signs[0, first.units] = 1
    chain = LayerChain(problem, 0, CLIMB).bound(
        Walls.at_zero(signs), nothing(problem, 1), no_cuts(problem, 1), Budget()
    )
    last = problem.layers[-1]
    width = chain.bounds[last.feed].upper - chain.bounds[last.feed].lower
    before = problem.bounds[last.feed].upper - problem.bounds[last.feed].lower
    assert bool(chain.empty[0]) or float(width.mean()) < float(before.mean())


def test_a_domain_that_was_not_kept_is_an_error_and_no_proof() -> None:
    store = DomainStore(units=2, inputs=3, clauses=1, planes=1)
    store.put(np.array([0]), store.root())
    with pytest.raises(SolverError, match="lost"):
        store.take(np.array([0, 1]))
