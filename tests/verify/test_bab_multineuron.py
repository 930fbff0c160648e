"""Branch and bound with constraints on groups of neurons decides what enumeration decides."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from test_bab import LAZY, check, problem_of

from branching_cases import RELU_KINDS, cases
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.testing.enumeration import clause_margin
from closegap.verify.bab import search
from closegap.verify.bab.bounder import DomainBatch, DomainBounder
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.multineuron import MultiNeuronOptions, RootCuts, multi_neuron_cuts
from closegap.verify.bab.problem import SplitProblem

SHORT = AscentOptions(iterations=10, slope_rate=0.05)
OPTIONS = {s: MultiNeuronOptions(size=s, units=10, climb=SHORT, after=0) for s in (2, 3)}


def found_cuts(problem: SplitProblem, options: MultiNeuronOptions) -> DomainConstraints:
    roots = np.arange(len(problem.rows))
    bounder = DomainBounder(problem, AscentOptions(iterations=10))
    payload = bounder.bound(root_batch(problem), Budget()).payload
    return multi_neuron_cuts(problem, roots, payload, options, Budget()).constraints


def root_batch(problem: SplitProblem) -> DomainBatch:
    roots = np.arange(len(problem.rows))
    none = np.zeros((len(roots), 0), np.int64)
    return DomainBatch(roots, none, none)


@pytest.mark.parametrize(
    ("kind", "size", "after"), [("dense", 3, 0), ("leaky", 2, 3), ("narrow residual", 3, 3)]
)
def test_verdicts_agree_with_enumeration(
    kind: str, size: int, after: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    def counted(problem: SplitProblem, roots: np.ndarray, *others: Any) -> RootCuts:
        begun.extend(roots)
        return multi_neuron_cuts(problem, roots, *others)

    monkeypatch.setattr(search, "multi_neuron_cuts", counted)
    for case in cases(rng, RELU_KINDS[kind], 1):
        check(case, replace(LAZY, multineuron=replace(OPTIONS[size], after=after)))
    assert begun


def test_constraints_wait_where_a_tree_is_young_or_about_to_close() -> None:
    options = MultiNeuronOptions(after=64)
    assert not options.due(63, 32, closing=0.0)
    assert options.due(64, 8, closing=0.5) and not options.due(64, 7, closing=0.0)
    assert options.due(64, 32, closing=0.75) and not options.due(64, 31, closing=0.75)
    assert not MultiNeuronOptions().due(10_000, 5_000, closing=0.0)


@pytest.mark.parametrize("size", OPTIONS)
def test_roots_gain_and_never_lose(size: int, rng: np.random.Generator) -> None:
    gains = []
    for case in islice(cases(rng, RELU_KINDS["wide"], 1, radius=0.8), 2):
        problem = problem_of(case.query)
        held = found_cuts(problem, OPTIONS[size])
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


@pytest.mark.parametrize("size", OPTIONS)
def test_subdomains_hold_against_samples(size: int, rng: np.random.Generator) -> None:
    for case in islice(cases(rng, RELU_KINDS["wide"], 1), 2):
        problem = problem_of(case.query)
        held = found_cuts(problem, OPTIONS[size])
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


def test_active_constraints_are_scored(rng: np.random.Generator) -> None:
    climb = AscentOptions(iterations=20, goal=np.inf)
    most = 0.0
    for case in islice(cases(rng, RELU_KINDS["wide"], 1, radius=0.8), 5):
        problem = problem_of(case.query)
        held = found_cuts(problem, OPTIONS[2])
        result = DomainBounder(problem, climb, held).bound(root_batch(problem), Budget())
        assert result.constraint_weights is not None
        assert result.constraint_weights.shape == (len(problem.rows), problem.units)
        most = max(most, float(result.constraint_weights.max()))
    assert most > 0
    bare = DomainBounder(problem, climb).bound(root_batch(problem), Budget())
    assert bare.constraint_weights is None
