"""Verdicts and optima of random tiny networks against enumeration; `benchmarks/completeness.py`
asks thousands."""

from __future__ import annotations

import numpy as np
import pytest

from closegap.strategy.solve import solve
from closegap.testing.completeness import KINDS, judge_optimum, judge_verdict, random_question


@pytest.mark.parametrize("kind", KINDS)
def test_optima_and_verdicts_are_those_of_enumeration(kind: str) -> None:
    for seed in (2, 3):
        rng = np.random.default_rng((77, seed))
        question = random_question(rng, kind)
        engines = ("pgd", "alpha-crown", "region-walk", "bab")
        result = solve(question.query, timeout=120, engines=engines, optimum=True)
        assert judge_optimum(question, result) == "right", (seed, result.detail)
        gap = float(rng.choice([-1e-3, 1e-3]))
        moved = question.moved_to(gap)
        result = solve(moved.query, timeout=120, engines=("crown", "bab"))
        assert judge_verdict(moved, result) == "right", (seed, gap, result.detail)
