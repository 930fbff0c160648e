"""Units bounded again in single precision: nothing that counts is cut off."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from test_sparse_tree import asked, grounded

from closegap.attacks.sparse.ascent import Slopes
from closegap.attacks.sparse.falls import Falls
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.core.budget import Budget
from closegap.specs.objectives import L1Distance, L2Distance, LinfDistance, Objective


@pytest.mark.parametrize("objective", [L1Distance(), L2Distance(), LinfDistance()])
def test_units_bounded_again_keep_every_nearer_counterexample(objective: Objective) -> None:
    rng, kept, narrowed = np.random.default_rng(0), 0, 0.0
    for seed in range(2):
        query = replace(asked(seed), objective=objective)
        limit = 0.4 if objective.norm == math.inf else 0.8
        ground = grounded(query, limit)
        nodes, count = Nodes(ground, objective, Budget()), len(ground.rows)
        steps = rng.normal(size=(400, 4)) * rng.random((400, 4)) ** 4
        sizes = objective.value(np.zeros(4), steps)[:, None]
        points = np.clip(query.center + steps * limit * rng.random((400, 1)) / sizes, 0, 1)
        seen = [ground.forward(point - query.center) for point in points]
        held = [Ranges(ground.low, ground.high)] * count
        for unit in np.flatnonzero(held[0].free)[:2]:
            held += [r.split(int(unit), sign) for r in held[-count:] for sign in (1, -1)][:count]
        ranges = Ranges(np.stack([r.low for r in held]), np.stack([r.high for r in held]))
        rows, tight = np.arange(len(held)) % count, ranges
        for _ in range(3):
            _, _, proof = nodes.climbed(rows, tight, Slopes.of(ground, tight), 3)
            found = nodes.rebounded(tight, proof)
            empty = (found.low > found.high).any(axis=1)[:, None]
            for at, row in enumerate(rows):
                inside = [v for v, m in seen if m[row] <= 0 and within(v, ranges.select(at))]
                assert all(within(values, found.select(at)) for values in inside)
                kept += len(inside)
            tight = Ranges(
                np.where(empty, ranges.low, found.low), np.where(empty, ranges.high, found.high)
            )
        widths = [(r.high - r.low).sum(axis=1) for r in (tight, ranges)]
        assert (widths[0] <= widths[1]).all()
        narrowed += widths[1].sum() - widths[0].sum()
    assert kept > 10 and narrowed > 0.1


def within(values: np.ndarray, ranges: Ranges) -> bool:
    return bool(((values >= ranges.low - 1e-9) & (values <= ranges.high + 1e-9)).all())


@pytest.mark.parametrize("norm", [0, 1, 2])
@pytest.mark.parametrize("scale", [1.0, 1e-15, 1e15])
def test_falls_in_single_precision_are_bounds(norm: int, scale: float) -> None:
    rng = np.random.default_rng(3)
    low, high = -rng.random(300), rng.random(300)
    low[:100], high[100:150] = 0.0, 0.0
    reach = Reach(low, high, norm, 3.0)
    rows = (scale * rng.normal(size=(40, 300)) ** 3).astype(np.float32)
    found, near = Falls(reach).least(rows), reach.least(rows.astype(np.float64))
    assert (Falls(reach).most(rows.astype(np.float64)) >= -near * (1 - 1e-9)).all()
    assert found / scale == pytest.approx(near / scale, rel=0.15)
    steps = rng.random((40, 50, 300)) ** 8 * np.where(rows > 0, low, high)[:, None]
    if norm:
        sizes = np.linalg.norm(steps, norm, axis=2, keepdims=True)
        steps = steps * np.minimum(1.0, 3.0 / sizes)
    values = (rows[:, None].astype(np.float64) * steps).sum(axis=2).min(axis=1)
    assert (found <= values).all()
    exact = _dual(rows.astype(np.float64), low, high, norm, 3.0)
    assert (found <= exact + 1e-12 * np.abs(exact)).all()


def _dual(rows: np.ndarray, low: np.ndarray, high: np.ndarray, norm: int, radius: float):
    """The least values, by a fine search on the radius's multiplier in double precision."""
    scale = np.abs(rows).max(axis=1, keepdims=True)
    best = np.full(len(rows), -np.inf)
    for share in np.geomspace(1e-3, 10, 800) if norm else [0.0]:
        price = share * scale
        if norm == 2:
            point = np.clip(-rows / price, low, high)
            value = (rows * point + price / 2 * point**2).sum(axis=1) - price[:, 0] / 2 * radius**2
        else:
            sides = (rows + price) * high, (rows - price) * low
            value = np.minimum(0, np.minimum(*sides)).sum(axis=1) - price[:, 0] * radius
        best = np.maximum(best, value)
    return best + (1e-2 * np.abs(best) if norm else 0.0)
