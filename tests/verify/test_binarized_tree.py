"""Branch and bound over first-layer signs against enumeration and the integer program."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from closegap.core.budget import Budget
from closegap.core.verdict import Verdict
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.binarized.recognise import binarized_form
from closegap.runtime.cache import compiled
from closegap.specs.query import Query, robustness
from closegap.strategy.solve import solve
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import random_mlp, random_sign
from closegap.verify.binarized.tree import SignSearch


def tiny(seed: int, sizes: list[int], eps: float) -> Query:
    rng = np.random.default_rng(seed)
    net = random_sign(rng, sizes)
    image = rng.random(sizes[0]).astype(np.float32)
    with torch.no_grad():
        label = int(compiled(net, torch.float64)(torch.from_numpy(image[None]).double()).argmax())
    return robustness(net, image, label, eps)


def search_of(q: Query) -> SignSearch:
    clauses = np.arange(q.prop.clauses)
    return SignSearch(q, binarized_form(q.network), clauses, lambda point: False)


@pytest.mark.parametrize("sizes", [[6, 6, 3], [7, 6, 5, 3], [8, 7, 7, 3]])
def test_a_closed_tree_is_right_and_never_above_the_truth(sizes: list[int]) -> None:
    for seed in range(2):
        q = tiny(seed, sizes, 0.12)
        least = min(least_clause_margin(q, k) for k in range(q.prop.clauses))
        search = search_of(q)
        search.run(Budget.of_seconds(5))
        assert search.lower <= least + 1e-12
        assert (search.lower > 0) == (least > 0)


def test_bounds_hold_at_every_pattern(rng: np.random.Generator) -> None:
    q = tiny(1, [7, 6, 5, 3], 0.3)
    search = search_of(q)
    signs = rng.choice([-1, 0, 1], size=(40, 6))
    lower, _ = search.lower_bounds(signs)
    forward = BinarizedForward(binarized_form(q.network))
    bits = np.where(signs == 0, rng.random(signs.shape) < 0.5, signs > 0)
    margins = q.prop.clause_values(q.prop.row_margins(forward.outputs(bits)))
    assert (lower <= margins).all()


def test_solve_uses_it_on_binarized_networks_only(rng: np.random.Generator) -> None:
    verdicts = set()
    for seed in range(4):
        q = tiny(seed, [6, 6, 3], 0.12)
        least = min(least_clause_margin(q, k) for k in range(q.prop.clauses))
        result = solve(q, timeout=3, engines=["binarized"])
        expected = Verdict.VERIFIED if least > 0 else Verdict.FALSIFIED
        assert result.verdict is expected
        verdicts.add(result.verdict)
    assert len(verdicts) == 2
    other = robustness(random_mlp(rng, [4, 5, 3]), np.full(4, 0.5), 0, 0.1)
    assert "binarized" not in solve(other, timeout=2, engines=["binarized"]).engine
