"""Lines around sigmoid and tanh hold in exact arithmetic, far from zero too."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mpmath import exp, mp, mpf, tanh

from closegap.bounds.records import Interval
from closegap.bounds.rules import activation_rule
from closegap.graph import ops
from closegap.graph.network import Node

mp.dps = 50

CURVES: dict[str, tuple[ops.Sigmoid | ops.Tanh, Callable[[mpf], mpf]]] = {
    "sigmoid": (ops.Sigmoid(), lambda z: 1 / (1 + exp(-z))),
    "tanh": (ops.Tanh(), tanh),
}


@pytest.mark.parametrize("kind", CURVES)
@pytest.mark.parametrize("scale", [1e-9, 0.1, 3.0, 60.0, 900.0])
def test_both_lines_hold_at_every_point(kind: str, scale: float, rng: np.random.Generator) -> None:
    op, truth = CURVES[kind]
    ends = np.sort(rng.uniform(-scale, scale, size=(2, 40)), axis=0)
    bounds = Interval(torch.as_tensor(ends[:1]), torch.as_tensor(ends[1:]))
    share = torch.as_tensor(rng.uniform(size=(1, 1, 2, 40)))
    lines = activation_rule(op).relax(Node(op, (0,), (40,)), bounds, share)
    assert lines.lower_intercept is not None
    assert lines.upper_intercept is not None
    below = zip(lines.lower_slope[0, 0], lines.lower_intercept[0, 0], strict=True)
    above = zip(lines.upper_slope[0, 0], lines.upper_intercept[0, 0], strict=True)
    for low, high, under, over in zip(ends[0], ends[1], below, above, strict=True):
        for z in map(mpf, np.linspace(low, high, 21)):
            value = truth(z)
            assert mpf(float(under[0])) * z + mpf(float(under[1])) <= value
            assert mpf(float(over[0])) * z + mpf(float(over[1])) >= value
