"""Tightened bounds against sampling, enumeration of the relaxation's meaning, and the clock."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from closegap.core.budget import Budget
from closegap.encode import EncodeOptions, encode
from closegap.graph import ops
from closegap.mip.model import SolveOptions
from closegap.mip.registry import backend
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query
from closegap.specs.region import lp_ball
from closegap.testing.enumeration import interval_bounds
from closegap.verify.lp_tightening import lp_tighten, undecided
from tiny_networks import FAMILIES, dense, query, samples


def contain(q: Query, bounds: dict, points: np.ndarray) -> None:
    runtime = TorchNetwork(q.network, dtype=torch.float64)
    with torch.no_grad():
        values = runtime.values(runtime.tensor(points))
    for node, (lower, upper) in bounds.items():
        value = values[node].flatten(1).numpy()
        assert (value >= lower).all() and (value <= upper).all()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_sound_never_looser_and_of_use(family, rng):
    decided = 0
    for _ in range(3):
        q = query(rng, FAMILIES[family](rng), radius=0.5)
        bounds = interval_bounds(q)
        before = {k: (low.copy(), high.copy()) for k, (low, high) in bounds.items()}
        result = lp_tighten(q, bounds, Budget.of_seconds(20))
        assert result.complete and not result.detail
        contain(q, result.bounds, samples(rng, q, 10_000))
        for node, (lower, upper) in result.bounds.items():
            assert (bounds[node][0] == before[node][0]).all()  # the caller's arrays are untouched
            assert (lower >= bounds[node][0]).all() and (upper <= bounds[node][1]).all()
        decided += result.decided + result.improved
    if family not in ("convolutional",):  # one layer of activations: interval bounds are exact
        assert decided > 0


@pytest.mark.parametrize("activation", [ops.Sigmoid(), ops.Tanh()], ids=["sigmoid", "tanh"])
def test_smooth_layers(activation, rng):
    q = query(rng, dense(rng, [3, 6, 5, 2], activation), radius=0.3)
    result = lp_tighten(q, interval_bounds(q), Budget.of_seconds(20))
    assert result.improved > 0
    contain(q, result.bounds, samples(rng, q, 10_000))


def test_each_bound_is_the_relaxations_optimum(rng):
    """Seen from the other side: the network cut after the neuron, relaxed and minimised."""
    q = query(rng, dense(rng, [3, 6, 5, 4], ops.Relu()), radius=0.4)
    bounds = interval_bounds(q)
    result = lp_tighten(q, bounds, Budget.of_seconds(20))
    node = q.network.pre_activations[1]
    cut = type(q.network)(nodes=q.network.nodes[: node + 1], onnx_bytes=b"", digest="cut", batch=1)
    checked = 0
    for neuron in np.flatnonzero(undecided(q.network, node, *bounds[node])):
        row = np.zeros((1, 5))
        row[0, neuron] = 1.0
        prop = type(q.prop)(row, np.zeros(1), np.zeros(1, np.int64), True, ("neuron",))
        model = encode(
            Query(cut, q.region, prop), bounds, clause=0, options=EncodeOptions(relax=True)
        ).model
        optimum = backend("highs").solve(model, SolveOptions()).objective
        lower, upper = result.bounds[node][0][neuron], result.bounds[node][1][neuron]
        if lower < 0 < upper:  # both sides were asked for
            assert lower == pytest.approx(max(optimum, bounds[node][0][neuron]), abs=1e-6)
            assert lower <= optimum + 1e-12
            checked += 1
    assert checked


def test_an_l1_ball_tightens_the_first_layer_too(rng):
    net = FAMILIES["dense"](rng)
    q = Query(net, lp_ball(rng.random(3), 0.4, norm=1), query(rng, net).prop)
    bounds = interval_bounds(q)  # of the surrounding box
    result = lp_tighten(q, bounds, Budget.of_seconds(20))
    first = net.pre_activations[0]
    assert (result.bounds[first][0] > bounds[first][0]).any()
    directions = rng.normal(size=(5000, 3))
    directions /= np.abs(directions).sum(axis=1, keepdims=True)
    points = q.region.center + 0.4 * rng.random((5000, 1)) * directions
    inside = (points >= 0).all(axis=1) & (points <= 1).all(axis=1)
    contain(q, result.bounds, points[inside])


def test_the_deadline_is_kept_and_what_was_found_is_sound(rng):
    q = query(rng, dense(rng, [20, 200, 200, 200, 2], ops.Relu()), radius=0.5)
    bounds = interval_bounds(q)
    begun = time.monotonic()
    result = lp_tighten(q, bounds, Budget.of_seconds(0.7))
    assert time.monotonic() - begun < 2.0
    assert not result.complete and result.programs > 0
    contain(q, result.bounds, samples(rng, q, 500))
    stopped = lp_tighten(q, bounds, Budget.of_seconds(math.inf), None, lambda: True)
    assert stopped.programs == 0 and not stopped.complete
