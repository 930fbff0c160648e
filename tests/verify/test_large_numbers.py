"""Networks whose weights are huge, and undone by tiny ones behind: the function is the same."""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from onnx import helper

from closegap.attacks.sparse.generic import GenericMip
from closegap.attacks.sparse.reach import Reach
from closegap.core.budget import Budget
from closegap.evaluate.distances import Distance
from closegap.frontend import loads
from closegap.graph.network import Network
from closegap.runtime.cache import replayer
from closegap.specs.query import robustness
from closegap.strategy.distance import minimise_distance
from closegap.strategy.solve import solve
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import onnx_model

LARGE = 2.0**60  # a power of two: what it scales is scaled back without rounding


def scaled(seed: int, inputs: int, scale: float) -> tuple[Network, np.ndarray]:
    """A network of two hidden layers, the first of them scaled, and an image."""
    rng = np.random.default_rng(seed)
    sizes, scales = [inputs, 6, 6, 3], (scale, 1 / scale, 1.0)
    nodes, weights, name = [], {}, "input"
    for i, (a, b) in enumerate(pairwise(sizes)):
        weights[f"w{i}"] = rng.normal(size=(a, b)) * scales[i]
        weights[f"b{i}"] = rng.normal(size=b) * (scale if i == 0 else 1.0) * 0.1
        end = f"a{i}" if i < 2 else "output"
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Add", [f"m{i}", f"b{i}"], [end]))
        if i < 2:
            nodes.append(helper.make_node("Relu", [end], [f"r{i}"]))
        name = f"r{i}"
    data = onnx_model(nodes, weights, [1, inputs])
    return loads(data, "scaled"), rng.random(inputs).astype(np.float32)


def label_of(network: Network, image: np.ndarray) -> int:
    return int(replayer(network).outputs_float32(image[None])[0].argmax())


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_programs_with_huge_numbers_prove_nothing_wrong(seed: int) -> None:
    plain, image = scaled(seed, 8, 1.0)
    large, _ = scaled(seed, 8, LARGE)
    label = label_of(plain, image)
    assert label == label_of(large, image)
    query, asked = (robustness(n, image, label, 0.1) for n in (plain, large))
    least = min(least_clause_margin(query, k) for k in range(2))
    result = solve(asked, timeout=4, engines=["mip"], optimum=True)
    assert result.bracket.lower <= least + 1e-3 * abs(least)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_least_distances_of_huge_numbers_are_never_too_large(seed: int) -> None:
    plain, image = scaled(seed, 4, 1.0)
    large, _ = scaled(seed, 4, LARGE)
    label = label_of(plain, image)
    known = minimise_distance(Distance("l1").query(plain, image, label), timeout=3)
    assert known.closed and math.isfinite(known.upper)
    query = Distance("l1").query(large, image, label)

    def counts(point: np.ndarray, _: float) -> bool:
        witness = replayer(large).witness(query.anywhere(), point)
        return witness is not None and witness.breaks

    answer = GenericMip(solver="scip").run(query, Budget.of_seconds(5), counts)
    assert answer.lower <= known.upper
    assert any("beyond what solvers' tolerances bear" in note for note in answer.notes)


@pytest.mark.parametrize("name", ["l2", "l1", "linf", "l0", "l1+tv"])
@pytest.mark.parametrize("scale", [2.0**50, LARGE, 2.0**83])
def test_huge_slopes_warn_of_nothing_and_bound_nothing_wrong(name: str, scale: float) -> None:
    plain, image = scaled(3, 9, 1.0)
    large, _ = scaled(3, 9, scale)
    label = label_of(plain, image)
    least = minimise_distance(Distance(name).query(plain, image, label), timeout=2).upper
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = minimise_distance(Distance(name).query(large, image, label), timeout=2)
    assert result.lower <= least * (1 + 1e-3)


@pytest.mark.parametrize("norm", [0, 1, 2])
@pytest.mark.parametrize("size", [1e18, 1e30, 1e100, 1e300, math.inf, math.nan])
@pytest.mark.parametrize("radius", [1.0, 1e-30])
def test_bounds_of_huge_slopes_hold_or_are_none(
    norm: int, size: float, radius: float, rng: np.random.Generator
) -> None:
    reach = Reach(-rng.random(5), rng.random(5), norm, radius)
    slopes = rng.normal(size=(3, 5)) * size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bounds = reach.least(slopes)
    assert not np.isnan(bounds).any()
    points = rng.uniform(reach.low, reach.high, size=(500, 5))
    if norm:
        lengths = np.linalg.norm(points, ord=norm, axis=1)
        points *= np.minimum(1, radius / lengths)[:, None]
    if math.isfinite(size):
        assert (bounds <= (points @ slopes.T).min(axis=0)).all()
    else:
        assert (bounds == -np.inf).all()
