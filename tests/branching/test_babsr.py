"""Scores: zero for units that cannot be split, and never below what they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from branching_cases import RELU_KINDS, cases
from closegap.bounds.optimise import AscentOptions
from closegap.branching.babsr import babsr_scores, intercept_scores
from closegap.core.budget import Budget
from closegap.verify.bab.bounder import DomainBatch, DomainBounder
from closegap.verify.bab.branching import FilteredBranching, shortlist
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.incomplete import LinearVerifier


def bounds_of(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Every kind of interval: open, on, off, and each end at zero."""
    lower = torch.as_tensor(-rng.uniform(0, 2, (4, 30)))
    upper = torch.as_tensor(rng.uniform(0, 2, (4, 30)))
    lower[:, :5] = 0
    upper[:, 5:10] = 0
    lower[:, 10:12], upper[:, 10:12] = 0.1, 0.5
    lower[:, 12:14], upper[:, 12:14] = -0.5, -0.1
    lower[:, 14], upper[:, 14] = 0, 0
    return lower, upper


def test_stable_units_score_nothing_and_open_ones_are_finite(rng: np.random.Generator) -> None:
    lower, upper = bounds_of(rng)
    incoming = torch.as_tensor(rng.normal(size=(4, 30)) * 10)
    bias = torch.as_tensor(rng.normal(size=30))
    open_ = (lower < 0) & (upper > 0)
    for scores in (
        babsr_scores(incoming, lower, upper, bias),
        intercept_scores(incoming, lower, upper),
    ):
        assert (scores[~open_] == 0).all()
        assert (scores >= 0).all()
        assert scores.isfinite().all()
    losses = intercept_scores(incoming, lower, upper)
    chord = -upper * lower / (upper - lower)
    expected = torch.where(incoming < 0, -incoming * chord, 0.0)
    assert torch.allclose(losses[open_], expected[open_])


def problem_of(kind: str, rng: np.random.Generator) -> SplitProblem:
    case = next(cases(rng, RELU_KINDS[kind], 1, radius=1.0))
    bounds = LinearVerifier(case.query).activations(Budget())
    problem = split_problem(case.query, bounds, np.arange(2))
    assert problem is not None
    return problem


@pytest.mark.parametrize("kind", RELU_KINDS)
def test_neither_stable_nor_split_units_are_chosen(kind: str, rng: np.random.Generator) -> None:
    problem = problem_of(kind, rng)
    bounder = DomainBounder(problem, AscentOptions(iterations=2))
    for depth in range(problem.units + 1):
        units = np.stack([rng.permutation(problem.units)[:depth] for _ in range(5)])
        signs = rng.choice([-1, 1], size=units.shape)
        batch = DomainBatch(rng.integers(0, 2, 5), units, signs)
        result = bounder.bound(batch, Budget())
        ranked = FilteredBranching().rank(problem, bounder, batch, result)
        again = FilteredBranching().rank(problem, bounder, batch, result)
        listed = shortlist(problem, result, 3)
        assert (ranked == again).all()
        for row, given, used in zip(ranked, listed, units, strict=True):
            chosen = row[row >= 0]
            assert len(set(chosen.tolist())) == len(chosen)
            assert set(chosen.tolist()) == set(given[given >= 0].tolist())
            assert not set(chosen.tolist()) & set(used.tolist())
            assert len(chosen) or depth == problem.units
