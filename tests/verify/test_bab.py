"""Branch and bound decides what enumeration decides."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from branching_cases import RELU_KINDS, Case, cases
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.specs.query import Query
from closegap.specs.region import Ball
from closegap.testing.enumeration import clause_margin
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.outcome import BranchOutcome
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.incomplete import LinearVerifier

#: Few steps of the ascent: more splits, more leaves, more to go wrong.
LAZY = BranchOptions(
    batch=8, root=AscentOptions(iterations=3), children=AscentOptions(iterations=2, patience=2)
)


class Judge:
    """Accepts a point of the region at which some clause is broken; remembers it."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.found: np.ndarray | None = None
        self.offered = 0

    def __call__(self, points: np.ndarray) -> bool:
        region = self.query.region
        box = region.box if isinstance(region, Ball) else region
        self.offered += len(points)
        for clause in range(self.query.prop.clauses):
            inside = np.clip(points, box.lower, box.upper)
            if isinstance(region, Ball):
                step = (inside - region.center).reshape(len(inside), -1)
                size = np.linalg.norm(step, ord=region.norm, axis=1, keepdims=True)
                step = step * np.minimum(1, region.radius / np.maximum(size, 1e-30))
                inside = region.center + step.reshape(inside.shape)
            margins = clause_margin(self.query, clause, inside)
            if (margins < 0).any():
                self.found = inside[int(margins.argmin())]
                return True
        return False


def problem_of(query: Query) -> SplitProblem:
    bounds = LinearVerifier(query).activations(Budget())
    problem = split_problem(query, bounds, np.arange(query.prop.clauses))
    assert problem is not None
    return problem


def search(query: Query, options: BranchOptions) -> tuple[BranchOutcome, Judge]:
    judge = Judge(query)
    outcome = BranchAndBound(problem_of(query), options, judge).run(Budget.of_seconds(30))
    return outcome, judge


def check(case: Case, options: BranchOptions) -> BranchOutcome:
    outcome, judge = search(case.query, options)
    assert outcome.accounting.balanced
    assert outcome.accounting.roots == len(case.margins)
    if case.margin > 0:
        assert outcome.finished
        assert not outcome.broken
        assert np.isposinf(outcome.lower).all()
    else:
        assert outcome.broken
        assert judge.found is not None
        true = np.array(case.margins)
        assert (outcome.lower[true < 0] <= true[true < 0]).all()
    return outcome


@pytest.mark.parametrize("kind", RELU_KINDS)
def test_verdicts_agree_with_enumeration(kind: str, rng: np.random.Generator) -> None:
    for case in cases(rng, RELU_KINDS[kind], 2):
        check(case, BranchOptions())
        check(case, LAZY)


@pytest.mark.parametrize("clauses", [(2,), (3, 1), (2, 2)])
@pytest.mark.parametrize("kind", ["dense", "leaky", "narrow residual"])
def test_clauses_of_several_rows(
    kind: str, clauses: tuple[int, ...], rng: np.random.Generator
) -> None:
    for case in cases(rng, RELU_KINDS[kind], 1, clauses=clauses):
        check(case, LAZY)


@pytest.mark.parametrize("kind", ["dense", "wide", "narrow residual"])
def test_l1_balls(kind: str, rng: np.random.Generator) -> None:
    for case in cases(rng, RELU_KINDS[kind], 2, norm=1, radius=0.8):
        check(case, LAZY)


@pytest.mark.parametrize("kind", ["dense", "leaky", "convolutional"])
def test_regions_without_unstable_units(kind: str, rng: np.random.Generator) -> None:
    stable = 0
    for case in cases(rng, RELU_KINDS[kind], 2, clauses=(2, 1), radius=1e-4):
        stable += problem_of(case.query).units == 0
        check(case, LAZY)
    assert stable


@pytest.mark.parametrize("kind", ["dense", "narrow residual"])
def test_l2_balls_hold_against_sampling(kind: str, rng: np.random.Generator) -> None:
    # No enumeration of an l2 ball: its box bounds the margin from below, samples from above.
    for case in islice(cases(rng, RELU_KINDS[kind], 1, clauses=(1,)), 3):
        box = case.query.region
        center = (box.lower + box.upper) / 2
        query = replace(case.query, region=Ball(box, center, 0.5, 2))
        angle = np.linspace(0, 2 * np.pi, 2001)
        fan = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        points = np.concatenate([center + 0.5 * s * fan for s in np.linspace(0, 1, 21)])
        sampled = float(clause_margin(query, 0, points).min())
        for gap in (0.02, -0.02):
            offsets = query.prop.offsets + (gap - sampled)
            moved = replace(query, prop=replace(query.prop, offsets=offsets))
            outcome, judge = search(moved, LAZY)
            assert outcome.accounting.balanced
            assert outcome.finished == (gap > 0)
            assert (judge.found is not None) == outcome.broken == (gap < 0)
