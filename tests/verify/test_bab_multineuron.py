"""Branch and bound with constraints on groups of neurons decides what enumeration decides."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import count, islice
from typing import Any

import numpy as np
import pytest
import torch
from test_bab import LAZY, check, problem_of

from branching_cases import RELU_KINDS, cases
from closegap.bounds.optimise import AscentOptions
from closegap.branching.options import BranchingOptions
from closegap.core.budget import Budget
from closegap.search.tree import Tree
from closegap.testing.enumeration import clause_margin
from closegap.verify.bab import strengthening
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.branching import Brancher
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.multineuron import JointRows, MultiNeuronOptions, joint_rows
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.search import BranchAndBound

SHORT = AscentOptions(iterations=10, slope_rate=0.05)
OPTIONS = {s: MultiNeuronOptions(size=s, units=10, climb=SHORT, after=0) for s in (2, 3, 4)}


def found_rows(
    problem: SplitProblem, options: MultiNeuronOptions, batch: DomainBatch | None = None
) -> JointRows:
    asked = root_batch(problem) if batch is None else batch
    payload = DomainBounder(problem, AscentOptions(iterations=10)).bound(asked, Budget()).payload
    none = DomainConstraints()
    return joint_rows(problem, replace(asked, payload=payload), none, options, Budget())


def root_batch(problem: SplitProblem) -> DomainBatch:
    roots = np.arange(len(problem.rows))
    none = np.zeros((len(roots), 0), np.int64)
    return DomainBatch(roots, none, none)


@pytest.mark.parametrize(
    ("kind", "size", "after", "vectors"),
    [("dense", 4, 0, True), ("leaky", 2, 3, True), ("narrow residual", 3, 3, False)],
)
def test_verdicts_agree_with_enumeration(
    kind: str,
    size: int,
    after: int,
    vectors: bool,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []

    def counted(problem: SplitProblem, batch: DomainBatch, *others: Any) -> JointRows:
        begun.extend(batch.root)
        return joint_rows(problem, batch, *others)

    monkeypatch.setattr(strengthening, "joint_rows", counted)
    monkeypatch.setattr(strengthening, "_LEAST", 8)
    for case in cases(rng, RELU_KINDS[kind], 1):
        groups = replace(OPTIONS[size], after=after, vectors=vectors)
        check(case, replace(LAZY, multineuron=groups))
    assert begun


def test_constraints_wait_where_a_tree_is_young_or_about_to_close() -> None:
    options = MultiNeuronOptions(after=64)
    assert not options.due(63, 32, closing=0.0)
    assert options.due(64, 8, closing=0.5) and not options.due(64, 7, closing=0.0)
    assert options.due(64, 32, closing=0.75) and not options.due(64, 31, closing=0.75)
    assert not MultiNeuronOptions().due(10_000, 5_000, closing=0.0)


def test_rows_are_kept_where_they_save_more_levels_than_they_cost() -> None:
    bare, held = np.array([-1.0, -3.0]), np.array([-0.5, 0.1])
    assert strengthening._work(held, 0.5, 1.25) < strengthening._work(bare, 0.5, 1.0)
    assert strengthening._work(held, 50.0, 2.0) > strengthening._work(bare, 50.0, 1.0)
    assert strengthening._work(held, 0.0, 9.0) < strengthening._work(bare, 0.0, 1.0)


@pytest.mark.parametrize("size", OPTIONS)
def test_roots_gain_and_never_lose(size: int, rng: np.random.Generator) -> None:
    gains = []
    for case in islice(cases(rng, RELU_KINDS["wide"], 1, radius=0.8), 2):
        problem = problem_of(case.query)
        held = found_rows(problem, OPTIONS[size]).constraints
        climb = AscentOptions(iterations=30, patience=30, goal=np.inf)
        bare = DomainBounder(problem, climb)
        first = bare.bound(root_batch(problem), Budget())
        bound = DomainBounder(problem, climb, held)
        room = bound.width - bare.width
        warm = replace(root_batch(problem), payload=np.pad(first.payload, ((0, 0), (0, room))))
        lower = bound.bound(warm, Budget()).lower
        assert (lower >= first.lower - 1e-5).all()
        assert (lower <= np.array(case.margins) + 1e-9).all()
        gains.append((lower - first.lower).max())
    assert max(gains) > 1e-3


class Kept:
    """Keeps the state of every step."""

    due = True

    def __init__(self) -> None:
        self.states: list[dict[str, np.ndarray]] = []

    def keep(self, arrays: dict[str, np.ndarray]) -> None:
        self.states.append({name: array.copy() for name, array in arrays.items()})


@pytest.mark.parametrize("vectors", [False, True])
def test_a_tree_with_rows_goes_on_exactly(
    vectors: bool, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strengthening, "_LEAST", 40)
    monkeypatch.setattr(strengthening, "_DEARER", 0.1)
    case = next(iter(cases(rng, RELU_KINDS["wide"], 1, radius=0.8)))
    problem, options = (
        problem_of(case.query),
        replace(LAZY, multineuron=replace(OPTIONS[2], after=9, vectors=vectors)),
    )
    budget, kept = Budget.of_seconds(60, nodes=150), Kept()
    whole = BranchAndBound(problem, options, lambda points: False)
    outcome = whole.run(budget, kept)
    numbers = [int(state["rows_sets"][0]) for state in kept.states]
    assert min(numbers) == 0 < max(numbers)
    for number in (np.argmax(numbers), len(numbers) - 3):
        again = BranchAndBound(problem, options, lambda points: False)
        again.resume(kept.states[number])
        other, rest = again.run(budget, later := Kept()), kept.states[number + 1 :]
        assert (other.lower == outcome.lower).all()
        assert other.accounting == outcome.accounting
        for mine, theirs in zip(later.states, rest, strict=True):
            same = {n for n in mine if n not in ("seconds", "pace")}
            assert all(np.array_equal(mine[n], theirs[n]) for n in same)


def test_damaged_rows_are_refused(rng: np.random.Generator) -> None:
    problem = problem_of(next(iter(cases(rng, RELU_KINDS["wide"], 1, radius=0.8))).query)
    held = strengthening.Strengthening(problem, OPTIONS[2], SHORT)
    held.constraints = found_rows(problem, OPTIONS[2]).constraints
    arrays = held.arrays
    place = next(n for n in arrays if n.endswith("owner"))
    for damage in (
        {place: arrays[place] + 1000},
        {place: arrays[place][:-1]},
        {"rows_sets": np.array([99])},
    ):
        with pytest.raises(ValueError, match="damaged"):
            strengthening.Strengthening(problem, OPTIONS[2], SHORT).restore({**arrays, **damage})


@pytest.mark.parametrize("size", OPTIONS)
def test_subdomains_hold_against_samples(size: int, rng: np.random.Generator) -> None:
    for case in islice(cases(rng, RELU_KINDS["wide"], 1), 2):
        problem = problem_of(case.query)
        held = found_rows(problem, replace(OPTIONS[size], vectors=size != 2)).constraints
        if problem.units < 2:
            continue
        count = 24
        units = np.array([rng.permutation(problem.units)[:2] for _ in range(count)])
        signs = rng.choice([-1, 1], size=(count, 2))
        batch = DomainBatch(rng.integers(len(problem.rows), size=count), units, signs)
        result = DomainBounder(problem, AscentOptions(iterations=30), held).bound(batch, Budget())
        box = case.query.region
        shape = case.query.network.input_shape
        points = rng.uniform(box.lower, box.upper, size=(4000, *shape)).astype(np.float64)
        values = problem.exact.values(torch.as_tensor(points.reshape(len(points), -1)))
        pre = torch.cat(
            [values[y.feed].flatten(1)[:, y.indices] for y in problem.layers], dim=1
        ).numpy()
        for row in range(count):
            inside = (pre[:, units[row]] * signs[row] >= 0).all(axis=1)
            if inside.any():
                clause = int(problem.clauses[batch.root[row]])
                least = clause_margin(case.query, clause, points[inside]).min()
                assert result.lower[row] <= least


def test_rows_take_over_from_units(rng: np.random.Generator) -> None:
    climb = AscentOptions(iterations=20, goal=np.inf)
    most = 0.0
    for case in islice(cases(rng, RELU_KINDS["wide"], 1, radius=0.8), 5):
        problem = problem_of(case.query)
        held = found_rows(problem, OPTIONS[2]).constraints
        result = DomainBounder(problem, climb, held).bound(root_batch(problem), Budget())
        assert result.residual is not None
        most = max(most, float((result.residual - result.incoming).max()))
    assert most > 0
    bare = DomainBounder(problem, climb).bound(root_batch(problem), Budget())
    assert bare.residual is None


def test_bounds_rest_on_first_layers_at_the_candidates(rng: np.random.Generator) -> None:
    for case in islice(cases(rng, RELU_KINDS["wide"], 1), 2):
        problem = problem_of(case.query)
        bounder = DomainBounder(problem, SHORT)
        batch = root_batch(problem)
        result = bounder.bound(batch, Budget())
        found = bounder.inputs_at_rest(replace(batch, payload=result.payload))
        layer = problem.layers[0]
        points = torch.as_tensor(result.candidates).flatten(1)
        values = problem.exact.values(points)[layer.feed].flatten(1)[:, layer.indices]
        torch.testing.assert_close(found[:, layer.units], values, rtol=1e-4, atol=1e-4)


def test_under_rows_units_are_chosen_by_the_estimate_alone(rng: np.random.Generator) -> None:
    for case in islice(cases(rng, RELU_KINDS["wide"], 1, radius=0.8), 3):
        problem = problem_of(case.query)
        rows = found_rows(problem, OPTIONS[2])
        bounder = DomainBounder(problem, SHORT, rows.constraints)
        result = bounder.bound(rows.batch, Budget())
        ranked = [
            Brancher(problem, bounder, BranchingOptions(name)).rank(rows.batch, result)
            for name in ("auto", "acs")
        ]
        assert (ranked[0] == ranked[1]).all()


def test_rows_are_adopted_within_the_memory_of_warm_starts(rng: np.random.Generator) -> None:
    problem = problem_of(next(iter(cases(rng, RELU_KINDS["wide"], 1, radius=0.8))).query)
    rows, tree = found_rows(problem, OPTIONS[2]), Tree()
    search = BranchAndBound(problem, LAZY, lambda points: False, tree=tree)
    tree.plant(len(problem.rows))
    while len(nodes := tree.open_nodes()) < 20_000:
        tree.split(nodes, np.zeros(len(nodes), np.int64))
    search._payloads.reserve(16 * 2**20)
    store = search._payloads._starts
    kept = nodes[: len(store._rows)]
    starts = rng.normal(size=(len(kept), search._bounder.width)).astype(np.float16)
    store.put(kept, starts)
    tracemalloc.start()
    search._adopt(rows, nodes[: len(problem.rows)], Budget(memory=16 * 2**20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.5 * store.nbytes
    again, found = search._payloads._starts.look(kept[len(problem.rows) :])
    width, bare = problem.rows.shape[1] * rows.constraints.width, starts[len(problem.rows) :]
    assert width and found.sum() > len(kept) / 2
    assert (again[found][:, :-width] == bare[found]).all()


@pytest.mark.parametrize(("pays", "times"), [(True, 2), (False, 4)])
def test_rows_that_paid_are_followed_by_others_sooner(
    pays: bool, times: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strengthening, "_LEAST", 1)
    work = iter([1.0, 0.0] if pays else [0.0, 1.0])
    monkeypatch.setattr(strengthening, "_work", lambda *_: next(work))
    problem = problem_of(next(iter(cases(rng, RELU_KINDS["wide"], 1, radius=0.8))).query)
    bounder, tree = DomainBounder(problem, SHORT), Tree()
    tree.plant(len(problem.rows))
    payload = bounder.bound(root_batch(problem), Budget()).payload
    rows = strengthening.Strengthening(problem, OPTIONS[2], SHORT)
    trial = rows.tried(replace(root_batch(problem), payload=payload), tree, bounder, Budget())
    assert (trial.rows is not None) == pays
    assert not rows.due(times * len(tree) - 1, 1) and rows.due(times * len(tree), 1)


def test_larger_groups_are_tried_once_a_tree_has_grown(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []

    def counted(
        problem: SplitProblem, batch: DomainBatch, before: Any, options: Any, budget: Budget
    ) -> JointRows:
        asked.append(options.size)
        return joint_rows(problem, batch, before, options, budget)

    monkeypatch.setattr(strengthening, "joint_rows", counted)
    monkeypatch.setattr(strengthening, "_LEAST", 1)
    problem = problem_of(next(iter(cases(rng, RELU_KINDS["dense"], 1))).query)
    bounder, tree = DomainBounder(problem, SHORT), Tree()
    tree.plant(len(problem.rows))
    payload = bounder.bound(root_batch(problem), Budget()).payload
    batch = replace(root_batch(problem), payload=payload)
    options = replace(OPTIONS[2], size=None)
    for times in (strengthening._LARGER, 1):
        monkeypatch.setattr(strengthening, "_LARGER", times * len(tree))
        asked.clear()
        rows = strengthening.Strengthening(problem, options, SHORT)
        rows.tried(batch, tree, bounder, Budget(nodes=10))
        assert asked == ([3] if times > 1 else [3, 4])
    monkeypatch.setattr(strengthening, "_LARGER", 10**6)
    falling = count(0.0, -1.0)
    monkeypatch.setattr(strengthening, "_work", lambda *_: next(falling))  # the last is the best
    trial = strengthening.Strengthening(problem, options, SHORT)
    trial._larger = 1
    held = batch
    for looks in (1, 2):
        found = trial.tried(held, tree, bounder, Budget(nodes=10)).rows
        assert asked == [3, 4] * (looks + 1)
        assert found is not None
        held = found.batch
