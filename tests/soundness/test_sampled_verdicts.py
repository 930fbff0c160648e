"""Every engine alone, on every kind of network, against sampling of the region.

The property is moved next to the least sampled margin, on both sides and exactly onto it, where a
wrong bound shows. A sampled point at or below zero makes `verified` wrong; a witness is evaluated
again from the ONNX file.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.random import Generator
from onnx import helper

from closegap.core.verdict import Verdict
from closegap.frontend import loads
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Ball, Box, Region, bounding_box, contains, lp_ball
from closegap.strategy.solve import solve
from closegap.testing import networks

ENGINES = ("clean", "pgd", "crown", "alpha-crown", "input-split", "bab", "mip")
#: Distances of the property from the least sampled margin, in units of the largest output.
SHIFTS = (0.0, -1e-6, 0.05)


def whole_numbers(rng: Generator, *, activation: str = "Relu") -> Network:
    """Small whole weights, a dead and a doubled neuron: ties everywhere, kinks on the grid."""
    nodes, weights, value, sizes = [], {}, "input", (2, 4, 3, 3)
    for layer in range(3):
        weight = rng.integers(-2, 3, (sizes[layer], sizes[layer + 1])).astype(float)
        weight[:, 1], weight[:, 2] = weight[:, 0], 0.0
        out = "output" if layer == 2 else f"h{layer}"
        weights |= {f"w{layer}": weight, f"b{layer}": rng.integers(-1, 2, sizes[layer + 1]) * 1.0}
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [out]))
        if layer < 2:
            nodes.append(helper.make_node(activation, [out], [f"a{layer}"]))
            value = f"a{layer}"
    return loads(networks.onnx_model(nodes, weights, ["N", 2]))


NETWORKS: dict[str, Callable[[Generator], Network]] = {
    "mlp": lambda rng: networks.random_mlp(rng, [2, 5, 4, 3]),
    "leaky": lambda rng: networks.random_leaky(rng, [2, 5, 4, 3], slope=0.1),
    "sigmoid": lambda rng: networks.random_sigmoid(rng, [2, 4, 3]),
    "tanh": lambda rng: networks.random_tanh(rng, [2, 4, 3]),
    "sign": lambda rng: networks.random_sign(rng, [2, 5, 4, 3]),
    "conv": lambda rng: networks.random_conv(rng, side=4),
    "residual": lambda rng: networks.random_residual(rng, side=2),
    "maxpool": lambda rng: networks.random_maxpool(rng, side=4),
    "whole": whole_numbers,
    "whole sign": lambda rng: whole_numbers(rng, activation="Sign"),
}


def region_of(rng: Generator, shape: tuple[int, ...]) -> Region:
    """A box (some inputs fixed, half-integer ends) or an l1 or l2 ball."""
    center = rng.integers(-1, 2, shape) * 0.5
    norm = rng.choice([1.0, 2.0, math.inf, math.inf])
    if norm != math.inf:
        return lp_ball(center, 0.5, norm=norm, low=-0.75, high=0.75)
    radius = 0.5 * rng.integers(0, 2, shape)
    radius.reshape(-1)[0] = 0.5
    return Box(center - radius, center + radius)


def sampled(rng: Generator, region: Region, count: int = 3000) -> np.ndarray:
    """Members of the region `[M, *shape]`: random ones, corners and middles of the box."""
    box = bounding_box(region)
    share = rng.random((count, *box.lower.shape))
    share[: count // 2] = np.round(2 * share[: count // 2]) / 2
    points = box.lower + (box.upper - box.lower) * share
    if isinstance(region, Ball):
        step = points - region.center
        length = np.linalg.norm(step.reshape(count, -1), ord=region.norm, axis=1)
        inner = np.minimum(1.0, region.radius * (1 - 1e-12) / np.maximum(length, 1e-12))
        points = region.center + step * inner.reshape(-1, *(1,) * (step.ndim - 1))
    return points


def property_of(rng: Generator) -> Property:
    """One to three rows in one or two clauses, comparisons or anything else."""
    count = int(rng.integers(1, 4))
    rows = rng.normal(size=(count, 3)) if rng.random() < 0.5 else rng.integers(-1, 2, (count, 3))
    clause = np.unique(np.sort(rng.integers(0, 2, count)), return_inverse=True)[1]
    return Property(
        rows=rows.astype(float),
        offsets=np.zeros(count),
        clause=clause.astype(np.int64),
        strict=bool(rng.integers(0, 2)),
        names=tuple(str(k) for k in range(clause.max() + 1)),
    )


def moved(prop: Property, offset: float) -> Property:
    offsets = np.full(len(prop.rows), offset)
    return Property(prop.rows, offsets, prop.clause, prop.strict, prop.names)


def replayed(network: Network, point: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(network.onnx_bytes, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": point[None]})[0]).reshape(1, -1)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_engine_contradicts_what_was_sampled(name, rng):
    generator = np.random.default_rng([rng.integers(2**32), list(NETWORKS).index(name)])
    for shift in SHIFTS:
        network = NETWORKS[name](generator)
        exact = TorchNetwork(network, dtype=torch.float64)
        region, prop = region_of(generator, network.input_shape), property_of(generator)
        with torch.no_grad():
            outputs = exact(exact.tensor(sampled(generator, region))).numpy()
        scale = float(np.abs(outputs).max())
        prop = moved(prop, shift * scale - float(prop.margins(outputs).min()))
        least = float(prop.margins(outputs).min())
        query = Query(network, region, prop)
        verdicts = set()
        for engine in ENGINES:
            result = solve(query, engines=(engine,), timeout=0.3)
            verdicts.add(result.verdict)
            assert result.bracket.lower <= least + 1e-14 * scale, (engine, shift)
            assert not (result.verdict is Verdict.VERIFIED and least <= 0), (engine, shift)
            if result.witness is not None:
                assert contains(region, result.witness.input), engine
            if result.verdict is Verdict.FALSIFIED:
                assert result.witness is not None
                again = float(prop.margins(replayed(network, result.witness.input))[0])
                assert prop.broken_by(again), (engine, shift)
        assert not {Verdict.VERIFIED, Verdict.FALSIFIED} <= verdicts, shift
