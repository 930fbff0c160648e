"""Bounds under a cutoff hold at every counterexample; contradictions mean that there is none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from branching_cases import RELU_KINDS, cases
from closegap.bounds.intermediate import NetworkBounds
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.specs.query import Query
from closegap.testing.enumeration import clause_margin
from closegap.verify import reduction
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.problem import split_problem
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.cutoff import CutoffOptions, CutoffSearch, margin_query
from closegap.verify.incomplete import LinearVerifier
from closegap.verify.reduction import climb_activations, reduced_query
from tiny_networks import FAMILIES, query, samples

QUICK = CutoffOptions(
    neurons=AscentOptions(iterations=4, slope_rate=0.4, split_rate=0.4),
    margin=AscentOptions(iterations=4),
    rounds=1,
)


def searches(query: Query, *, reduced: bool = False) -> list[tuple[CutoffSearch, NetworkBounds]]:
    """One finished search for every clause, and its bounds of the query's network."""
    known = LinearVerifier(query).activations(Budget())
    small = reduced_query(query, known, Budget(), math.inf) if reduced else None
    found = []
    for clause in range(query.prop.clauses):
        search = CutoffSearch(query, clause, known, QUICK)
        if small is not None:
            search = CutoffSearch(small.query, clause, small.bounds, QUICK, small.slack)
        search.run(Budget())
        bounds = search.bounds
        if small is not None:
            bounds = small.back(known, bounds.activations)
        found.append((search, bounds))
    return found


def node_values(query: Query, points: np.ndarray) -> list[torch.Tensor]:
    return LinearVerifier(query).exact.values(torch.as_tensor(points))


@pytest.mark.parametrize("kind", RELU_KINDS)
@pytest.mark.parametrize(("clauses", "reduced"), [((1, 1), True), ((2,), False)])
def test_a_refuted_clause_has_a_positive_margin(
    rng: np.random.Generator, kind: str, clauses: tuple[int, ...], reduced: bool
) -> None:
    for case in cases(rng, RELU_KINDS[kind], 1, clauses=clauses):
        found = searches(case.query, reduced=reduced)
        for (search, _), margin in zip(found, case.margins, strict=True):
            assert not search.refuted or margin > 0
            assert search.refuted or min(search.guide, 0.0) <= margin


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("kind", FAMILIES)
def test_bounds_hold_at_every_counterexample(
    rng: np.random.Generator, kind: str, reduced: bool
) -> None:
    some = query(rng, FAMILIES[kind](rng))
    points = samples(rng, some, 4000)
    margins = clause_margin(some, 0, points)
    offsets = some.prop.offsets - np.quantile(margins, 0.1)
    some = replace(some, prop=replace(some.prop, offsets=offsets))
    ((search, bounds),) = searches(some, reduced=reduced)
    assert not search.refuted
    bad = torch.as_tensor(clause_margin(some, 0, points) <= 0)
    values = node_values(some, points)
    for index, interval in bounds.activations.items():
        assert bool((values[index][bad] >= interval.lower - 1e-12).all())
        assert bool((values[index][bad] <= interval.upper + 1e-12).all())


def test_a_cutoff_refutes_what_bounds_of_the_region_leave_open(rng: np.random.Generator) -> None:
    gained = 0
    for case in cases(rng, RELU_KINDS["dense"], 1, clauses=(1,)):
        linear = LinearVerifier(case.query)
        plain = linear.rows(linear.activations(Budget()), Budget(), np.array([0]), QUICK.margin)
        gained += plain.lower[0] <= 0 and searches(case.query)[0][0].refuted
    assert gained > 0


def test_a_clause_that_gains_too_slowly_is_left(rng: np.random.Generator) -> None:
    left = 0
    for case in cases(rng, RELU_KINDS["dense"], 1, clauses=(1,)):
        known = LinearVerifier(case.query).activations(Budget())
        patient = replace(QUICK, rounds=3, least_gain=0.0, pace=math.inf)
        runs = [(patient, 60.0), (replace(patient, pace=0.0), 60.0)]
        runs.append((replace(patient, pace=0.0), math.inf))
        found = [CutoffSearch(case.query, 0, known, options) for options, _ in runs]
        for search, (_, seconds) in zip(found, runs, strict=True):
            search.run(Budget.of_seconds(seconds))
        hopeful, hasty, endless = (search.sweeps for search in found)
        assert hasty <= 1
        assert endless == hopeful
        left += hasty < hopeful
    assert left > 0


def test_the_margin_network_computes_the_clause_s_rows(rng: np.random.Generator) -> None:
    case = next(cases(rng, RELU_KINDS["residual"], 1, clauses=(1, 2)))
    points = samples(rng, case.query, 50)
    moved = margin_query(case.query, 1)
    margins = node_values(moved, points)[-1].numpy()
    assert margins.shape == (50, 2)
    np.testing.assert_allclose(margins.max(1), clause_margin(case.query, 1, points), atol=1e-12)


def test_branch_and_bound_goes_on_with_the_bounds_of_a_clause(rng: np.random.Generator) -> None:
    lazy = replace(QUICK, neurons=AscentOptions(iterations=1))
    for case in cases(rng, RELU_KINDS["dense"], 1, clauses=(1,)):
        known = LinearVerifier(case.query).activations(Budget())
        search = CutoffSearch(case.query, 0, known, lazy)
        search.run(Budget())
        problem = split_problem(case.query, search.bounds, np.array([0]))
        if search.refuted or problem is None:
            continue
        tree = BranchAndBound(problem, BranchOptions(batch=8, nodes=20), lambda points: False)
        lower = tree.run(Budget()).lower[0]
        assert min(lower, 0.0) <= case.margin
        assert case.margin > 0 or lower <= 0


def test_a_tree_that_is_left_early_accounts_for_all_of_it(rng: np.random.Generator) -> None:
    left = 0
    for case in cases(rng, RELU_KINDS["dense"], 1, clauses=(1,)):
        known = LinearVerifier(case.query).activations(Budget())
        problem = split_problem(case.query, known, np.array([0]))
        assert problem is not None
        search = BranchAndBound(problem, BranchOptions(batch=1), lambda points: False)
        found = search.run(Budget(), enough=lambda search=search: len(search.tree) >= 3)
        assert found.accounting.balanced
        assert found.accounting.created <= 3
        assert min(found.lower[0], 0.0) <= case.margin
        left += found.accounting.open > 0
    assert left > 0


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize(("hair", "reduced"), [(1e-6, False), (1e-12, True)])
def test_a_clause_that_is_broken_by_a_hair_is_not_refuted(
    rng: np.random.Generator, kind: str, hair: float, reduced: bool
) -> None:
    some = query(rng, FAMILIES[kind](rng), rows=2)
    points = samples(rng, some, 2000)
    margins = clause_margin(some, 0, points)
    worst = points[[margins.argmin()]]
    offsets = some.prop.offsets - margins.min() - hair * np.abs(margins).max()
    some = replace(some, prop=replace(some.prop, offsets=offsets))
    broken = float(clause_margin(some, 0, worst)[0])
    assert broken < 0
    ((search, bounds),) = searches(some, reduced=reduced)
    assert not search.refuted
    assert search.guide <= broken + 1e-13
    values = node_values(some, worst)
    for index, interval in bounds.activations.items():
        assert bool((values[index] >= interval.lower - 1e-12).all())
        assert bool((values[index] <= interval.upper + 1e-12).all())
    problem = split_problem(some, bounds, np.array([0]))
    if problem is not None:
        tree = BranchAndBound(problem, BranchOptions(batch=8, nodes=30), lambda points: False)
        assert tree.run(Budget()).lower[0] <= broken + 1e-13


@pytest.mark.parametrize("kind", RELU_KINDS)
def test_climbs_on_the_reduced_network_bound_the_original(
    rng: np.random.Generator, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_WORTH_CONVOLUTIONS", "_WORTH_DENSE"):
        monkeypatch.setattr(reduction, name, math.inf)
    for case in cases(rng, RELU_KINDS[kind], 1):
        linear = LinearVerifier(case.query)
        known = linear.activations(Budget())
        found = climb_activations(linear, known, Budget(), QUICK.neurons)
        plain = linear.activations(Budget(), known, QUICK.neurons)
        values = node_values(case.query, samples(rng, case.query, 500))
        for index, interval in found.activations.items():
            assert bool((values[index] >= interval.lower - 1e-12).all())
            assert bool((values[index] <= interval.upper + 1e-12).all())
            before, other = known.activations[index], plain.activations[index]
            assert bool((interval.lower >= before.lower).all())
            assert bool((interval.upper <= before.upper).all())
            width = float((before.upper - before.lower).max())
            assert bool((interval.lower >= other.lower - 0.1 * width).all())


def test_a_network_with_slack_takes_its_bounds_from_its_original(rng: np.random.Generator) -> None:
    case = next(cases(rng, RELU_KINDS["dense"], 1))
    linear = LinearVerifier(case.query, slack={1: torch.ones(1)})
    with pytest.raises(ValueError, match="slack"):
        linear.activations(Budget())
