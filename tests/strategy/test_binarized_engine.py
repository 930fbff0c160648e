"""The engine of binarized networks inside `solve`, against enumeration."""

from __future__ import annotations

import numpy as np
import torch

from closegap.core.verdict import Verdict
from closegap.runtime.cache import compiled
from closegap.specs.query import Query, robustness
from closegap.strategy.solve import solve
from closegap.testing.enumeration import least_clause_margin, linear_pieces
from closegap.testing.networks import random_mlp, random_sign


def tiny(seed: int, sizes: list[int], eps: float) -> Query:
    rng = np.random.default_rng(seed)
    net = random_sign(rng, sizes)
    image = rng.random(sizes[0]).astype(np.float32)
    with torch.no_grad():
        label = int(compiled(net, torch.float64)(torch.from_numpy(image[None]).double()).argmax())
    return robustness(net, image, label, eps)


def test_verdicts_are_those_of_enumeration() -> None:
    verdicts = set()
    for seed in range(4):
        q = tiny(seed, [6, 6, 3], 0.12)
        pieces = list(linear_pieces(q))
        least = min(least_clause_margin(q, k, pieces) for k in range(q.prop.clauses))
        result = solve(q, timeout=3, engines=["binarized"])
        expected = Verdict.VERIFIED if least > 0 else Verdict.FALSIFIED
        assert result.verdict is expected
        verdicts.add(result.verdict)
    assert len(verdicts) == 2


def test_other_networks_are_left_alone(rng: np.random.Generator) -> None:
    other = robustness(random_mlp(rng, [4, 5, 3]), np.full(4, 0.5), 0, 0.1)
    assert "binarized" not in solve(other, timeout=2, engines=["binarized"]).engine
