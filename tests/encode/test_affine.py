"""Affine ops as sparse matrices against the torch runtime, over shapes made by hypothesis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from closegap.encode.affine import affine_map
from closegap.graph import ops
from closegap.graph.entries import affine_entries
from closegap.graph.network import Node
from closegap.runtime.torch_network import TorchNetwork, forward_node
from tiny_networks import network

SMALL = st.integers(1, 3)
PAD = st.integers(0, 2)


def agrees(op: ops.Op, shapes: list[tuple[int, ...]], rng: np.random.Generator) -> None:
    parents = [Node(ops.Input(), (), s) for s in shapes]
    values = [rng.normal(size=s) for s in shapes]
    # the op's own output shape, by running it
    probe = Node(op, tuple(range(len(shapes))), (1,))
    weights = TorchNetwork(network(parents[0], Node(op, (0,), (1,)))).weights[1]
    weights = {k: v if v.dtype == torch.int64 else v.double() for k, v in weights.items()}
    for name, array in vars(op).items():  # exact weights, not float32 ones
        if isinstance(array, np.ndarray) and array.dtype == np.float64:
            weights[name] = torch.as_tensor(array)
    if isinstance(op, ops.ConvTranspose):
        (_, h, w), (_, _, kh, kw) = shapes[0], op.weight.shape
        out = [
            (n - 1) * s - op.pads[i] - op.pads[i + 2] + (k - 1) * d + 1 + o
            for i, (n, s, k, d, o) in enumerate(
                zip((h, w), op.stride, (kh, kw), op.dilation, op.output_padding, strict=True)
            )
        ]
        if min(out) < 1:
            return
        shape = (op.weight.shape[1] * op.groups, *out)
    elif isinstance(op, ops.Reshape):
        shape = (int(np.prod(shapes[0])),)
    else:
        tensors = [torch.as_tensor(v)[None] for v in values]
        shape = tuple(forward_node(probe, weights, tensors).shape[1:])
    node = Node(op, tuple(range(len(shapes))), shape)
    wanted = forward_node(node, weights, [torch.as_tensor(v)[None] for v in values]).numpy()
    matrices, bias = affine_map(node, parents)
    got = bias + sum(m @ v.reshape(-1) for m, v in zip(matrices, values, strict=True))
    np.testing.assert_allclose(got, wanted.reshape(-1), atol=1e-10)
    assert sum(m.nnz for m in matrices) <= affine_entries(node, parents)


GEOMETRY = st.fixed_dictionaries(
    {
        "groups": st.integers(1, 2),
        "c_in": SMALL,
        "c_out": SMALL,
        "kernel": st.tuples(SMALL, SMALL),
        "stride": st.tuples(SMALL, SMALL),
        "pads": st.tuples(PAD, PAD, PAD, PAD),
        "dilation": st.tuples(st.integers(1, 2), st.integers(1, 2)),
    }
)


@settings(max_examples=40, deadline=None)
@given(g=GEOMETRY, seed=st.integers(0, 99))
def test_conv(g, seed):
    rng = np.random.default_rng(seed)
    out = g["groups"] * g["c_out"]
    weight = rng.normal(size=(out, g["c_in"], *g["kernel"]))
    op = ops.Conv(weight, rng.normal(size=out), g["stride"], g["pads"], g["dilation"], g["groups"])
    agrees(op, [(g["groups"] * g["c_in"], 6, 5)], rng)


@settings(max_examples=40, deadline=None)
@given(g=GEOMETRY, extra=st.booleans(), seed=st.integers(0, 99))
def test_conv_transpose(g, extra, seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(g["groups"] * g["c_in"], g["c_out"], *g["kernel"]))
    larger = [max(pair) > 1 for pair in zip(g["stride"], g["dilation"], strict=True)]
    room = (int(extra and larger[0]), int(extra and larger[1]))
    bias = rng.normal(size=g["groups"] * g["c_out"])
    op = ops.ConvTranspose(weight, bias, g["stride"], g["pads"], room, g["dilation"], g["groups"])
    agrees(op, [(g["groups"] * g["c_in"], 4, 3)], rng)


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (ops.Linear(np.arange(6.0).reshape(2, 3), np.array([1.0, -1.0])), [(4, 3)]),
        (ops.Linear(np.arange(6.0).reshape(2, 3), np.array([1.0, -1.0])), [(3,)]),
        (ops.Scale(np.array([2.0, 0.0, -1.0])), [(2, 3)]),
        (ops.Shift(np.array([[2.0], [-1.0]])), [(2, 3)]),
        (ops.Add(), [(2, 3), (2, 3)]),
        (ops.Pad(((0, 0), (1, 2), (0, 3))), [(2, 2, 2)]),
        (ops.Sum((0, 2)), [(2, 3, 4)]),
        (ops.Reshape(), [(2, 3)]),
        (ops.Transpose((2, 0, 1)), [(2, 3, 4)]),
        (ops.Concat(1), [(2, 1), (2, 3), (2, 2)]),
        (ops.Take(np.array([5, 0, 0, 3])), [(2, 3)]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_other_ops(op, shapes, rng):
    agrees(op, shapes, rng)
