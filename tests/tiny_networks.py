"""Random networks small enough to enumerate, and hand-made graphs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import helper

from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box
from closegap.testing.networks import onnx_model


def network(*nodes: Node) -> Network:
    return Network(nodes=nodes, onnx_bytes=b"", digest="x", batch=1)


def linear(rng: np.random.Generator, n_in: int, n_out: int) -> ops.Linear:
    return ops.Linear(rng.normal(size=(n_out, n_in)), 0.3 * rng.normal(size=n_out))


def dense(rng: np.random.Generator, widths: list[int], activation: ops.Op) -> Network:
    nodes = [Node(ops.Input(), (), (widths[0],))]
    for n_in, n_out in pairwise(widths):
        nodes.append(Node(linear(rng, n_in, n_out), (len(nodes) - 1,), (n_out,)))
        nodes.append(Node(activation, (len(nodes) - 1,), (n_out,)))
    return network(*nodes[:-1])


def residual(rng: np.random.Generator) -> Network:
    return network(
        Node(ops.Input(), (), (3,)),
        Node(linear(rng, 3, 4), (0,), (4,)),
        Node(ops.Relu(), (1,), (4,)),
        Node(linear(rng, 4, 4), (2,), (4,)),
        Node(ops.Add(), (3, 1), (4,)),
        Node(ops.Relu(), (4,), (4,)),
        Node(ops.Concat(0), (5, 0), (7,)),
        Node(linear(rng, 7, 3), (6,), (3,)),
    )


def twofold(rng: np.random.Generator) -> Network:
    """Two ReLUs that one node feeds."""
    return network(
        Node(ops.Input(), (), (3,)),
        Node(linear(rng, 3, 5), (0,), (5,)),
        Node(ops.Relu(), (1,), (5,)),
        Node(ops.Relu(), (1,), (5,)),
        Node(linear(rng, 5, 4), (2,), (4,)),
        Node(linear(rng, 5, 4), (3,), (4,)),
        Node(ops.Add(), (4, 5), (4,)),
        Node(ops.Relu(), (6,), (4,)),
        Node(linear(rng, 4, 3), (7,), (3,)),
    )


def convolutional(rng: np.random.Generator) -> Network:
    conv = ops.Conv(
        rng.normal(size=(2, 1, 2, 2)), rng.normal(size=2), (2, 2), (0, 1, 1, 0), (1, 1), 1
    )
    up = ops.ConvTranspose(
        rng.normal(size=(2, 1, 2, 2)), rng.normal(size=1), (1, 1), (0, 0, 0, 0), (0, 0), (1, 1), 1
    )
    return network(
        Node(ops.Input(), (), (1, 3, 3)),
        Node(conv, (0,), (2, 2, 2)),
        Node(ops.Relu(), (1,), (2, 2, 2)),
        Node(up, (2,), (1, 3, 3)),
        Node(ops.Sum((0, 2)), (3,), (3,)),
    )


def pooled(rng: np.random.Generator) -> Network:
    windows = np.array([0, 1, 2, 1, 2, 3, 2, 3, 4], dtype=np.int64)
    return network(
        Node(ops.Input(), (), (3,)),
        Node(linear(rng, 3, 5), (0,), (5,)),
        Node(ops.Take(windows), (1,), (9,)),
        Node(ops.Reshape(), (2,), (3, 3)),
        Node(ops.Max(), (3,), (3,)),
        Node(linear(rng, 3, 3), (4,), (3,)),
        Node(ops.Relu(), (5,), (3,)),
        Node(linear(rng, 3, 2), (6,), (2,)),
    )


FAMILIES = {
    "dense": lambda rng: dense(rng, [3, 5, 4, 3], ops.Relu()),
    "leaky": lambda rng: dense(rng, [3, 5, 3, 3], ops.LeakyRelu(0.1)),
    "sign": lambda rng: dense(rng, [3, 5, 4, 3], ops.Sign(1)),
    "zero sign": lambda rng: dense(rng, [2, 3, 3, 3], ops.Sign(0)),
    "residual": residual,
    "convolutional": convolutional,
    "pooled": pooled,
}


def query(rng: np.random.Generator, net: Network, *, radius: float = 0.5, rows: int = 1) -> Query:
    """One clause of `rows` random rows over a random box."""
    center = rng.normal(size=net.input_shape) * 0.5
    prop = Property(
        rows=rng.normal(size=(rows, net.output_size)),
        offsets=rng.normal(size=rows),
        clause=np.zeros(rows, dtype=np.int64),
        strict=True,
        names=("only",),
    )
    return Query(net, Box(center - radius, center + radius), prop)


def samples(rng: np.random.Generator, q: Query, count: int) -> np.ndarray:
    """Points of the region's box, corners among them: `[count, *input shape]`."""
    box = q.region
    share = rng.random(size=(count, *q.network.input_shape))
    share[: count // 4] = np.round(share[: count // 4])
    return box.lower + share * (box.upper - box.lower)


def bright_pixel_model() -> bytes:
    """ONNX of flat 8x8 colour inputs: class 1 wins where entries 30, 31 and 32 are bright."""
    size = 3 * 8 * 8
    weight = np.zeros((2, size))
    weight[1, 30:33] = 1.0
    nodes = [
        helper.make_node("Gemm", ["input", "w", "b"], ["z"], transB=1),
        helper.make_node("Relu", ["z"], ["h"]),
        helper.make_node("Gemm", ["h", "v", "c"], ["output"], transB=1),
    ]
    weights = {"w": weight, "b": np.array([0.0, -1.0]), "v": np.eye(2), "c": np.array([1.7, 0.0])}
    return onnx_model(nodes, weights, ["N", size])
