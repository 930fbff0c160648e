"""Every affine op as sparse matrices, by index arithmetic: no loop over neurons or pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, eye_array, kron

from closegap.encode.expression import place
from closegap.graph import ops
from closegap.graph.network import Node

__all__ = ["AffineMap", "affine_map"]

Array: TypeAlias = NDArray[np.float64]
AffineMap: TypeAlias = tuple[tuple[csr_array, ...], Array]
Rule: TypeAlias = Callable[[Any, Node, Sequence[Node]], AffineMap]


def affine_map(node: Node, parents: Sequence[Node]) -> AffineMap:
    """The op as `y = sum_i matrices[i] @ x_i + bias`, over flattened values.

    Returns:
        one CSR matrix `[node.size, parent.size]` for each parent, and the bias `[node.size]`.
    """
    return _RULES[type(node.op)](node.op, node, parents)


def _select(source: NDArray[np.int64], size: int) -> csr_array:
    """Row i copies entry `source[i]`; a row with -1 is zero."""
    rows = np.flatnonzero(source >= 0)
    return place(rows, source[rows], 1.0, (len(source), size))


def _positions(parent: Node) -> NDArray[np.int64]:
    return np.arange(parent.size).reshape(parent.shape)


def _linear(op: ops.Linear, node: Node, parents: Sequence[Node]) -> AffineMap:
    lead = prod(node.shape[:-1])
    weight = csr_array(op.weight)
    matrix = weight if lead == 1 else csr_array(kron(eye_array(lead), weight))
    return (matrix,), np.tile(op.bias, lead)


def _conv(op: ops.Conv, node: Node, parents: Sequence[Node]) -> AffineMap:
    _, height, width = parents[0].shape
    out_channels, out_height, out_width = node.shape
    in_group, kernel_height, kernel_width = op.weight.shape[1:]
    # y: [out_height, kernel_height]; x: [out_width, kernel_width]
    y = _taps(out_height, kernel_height, op.stride[0], op.dilation[0], op.pads[0])
    x = _taps(out_width, kernel_width, op.stride[1], op.dilation[1], op.pads[1])
    inside = ((y >= 0) & (y < height))[:, None, None, :, None]
    inside = inside & ((x >= 0) & (x < width))[None, :, None, None, :]
    group = np.arange(out_channels) // (out_channels // op.groups)
    channel = group[:, None] * in_group + np.arange(in_group)
    # every entry as [out_channel, out_y, out_x, in_channel, tap_y, tap_x]
    full = (out_channels, out_height, out_width, in_group, kernel_height, kernel_width)
    source = channel[:, None, None, :, None, None] * (height * width) + (
        y[None, :, None, None, :, None] * width + x[None, None, :, None, None, :]
    )
    weight = np.broadcast_to(op.weight[:, None, None], full)
    used = np.broadcast_to(inside[None], full) & (weight != 0)
    counts = used.reshape(node.size, -1).sum(axis=1)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    indices = np.broadcast_to(source, full)[used]
    matrix = csr_array((weight[used], indices, indptr), shape=(node.size, parents[0].size))
    return (matrix,), np.repeat(op.bias, out_height * out_width)


def _taps(outputs: int, kernel: int, stride: int, dilation: int, pad: int) -> NDArray[np.int64]:
    return np.arange(outputs)[:, None] * stride - pad + np.arange(kernel)[None, :] * dilation


def _conv_transpose(op: ops.ConvTranspose, node: Node, parents: Sequence[Node]) -> AffineMap:
    channels, in_height, in_width = parents[0].shape
    _, height, width = node.shape
    out_group, kernel_height, kernel_width = op.weight.shape[1:]
    y = _taps(in_height, kernel_height, op.stride[0], op.dilation[0], op.pads[0])
    x = _taps(in_width, kernel_width, op.stride[1], op.dilation[1], op.pads[1])
    inside = ((y >= 0) & (y < height))[None, :, None, None, :, None]
    inside = inside & ((x >= 0) & (x < width))[None, None, :, None, None, :]
    group = np.arange(channels) // (channels // op.groups)
    channel = group[:, None] * out_group + np.arange(out_group)
    # every entry as [in_channel, in_y, in_x, out_channel, tap_y, tap_x]
    full = (channels, in_height, in_width, out_group, kernel_height, kernel_width)
    target = channel[:, None, None, :, None, None] * (height * width) + (
        y[None, :, None, None, :, None] * width + x[None, None, :, None, None, :]
    )
    source = np.arange(parents[0].size).reshape(channels, in_height, in_width, 1, 1, 1)
    weight = np.broadcast_to(op.weight[:, None, None], full)
    used = np.broadcast_to(inside, full) & (weight != 0)
    matrix = place(
        np.broadcast_to(target, full)[used],
        np.broadcast_to(source, full)[used],
        weight[used],
        (node.size, parents[0].size),
    )
    return (matrix,), np.repeat(op.bias, height * width)


def _scale(op: ops.Scale, node: Node, parents: Sequence[Node]) -> AffineMap:
    factor = np.broadcast_to(op.factor, node.shape).reshape(-1)
    places = np.arange(node.size)
    return (place(places, places, factor, (node.size, node.size)),), np.zeros(node.size)


def _shift(op: ops.Shift, node: Node, parents: Sequence[Node]) -> AffineMap:
    offset = np.broadcast_to(op.offset, node.shape).reshape(-1)
    return (_select(np.arange(node.size), node.size),), np.array(offset, dtype=np.float64)


def _add(op: ops.Add, node: Node, parents: Sequence[Node]) -> AffineMap:
    same = _select(np.arange(node.size), node.size)
    return (same, same), np.zeros(node.size)


def _pad(op: ops.Pad, node: Node, parents: Sequence[Node]) -> AffineMap:
    source = np.pad(_positions(parents[0]), op.pads, constant_values=-1)
    return (_select(source.reshape(-1), parents[0].size),), np.zeros(node.size)


def _sum(op: ops.Sum, node: Node, parents: Sequence[Node]) -> AffineMap:
    shape = parents[0].shape
    kept = tuple(1 if axis in op.axes else length for axis, length in enumerate(shape))
    target = np.broadcast_to(np.arange(node.size).reshape(kept), shape).reshape(-1)
    matrix = place(target, np.arange(parents[0].size), 1.0, (node.size, parents[0].size))
    return (matrix,), np.zeros(node.size)


def _reshape(op: ops.Reshape, node: Node, parents: Sequence[Node]) -> AffineMap:
    return (_select(np.arange(node.size), node.size),), np.zeros(node.size)


def _transpose(op: ops.Transpose, node: Node, parents: Sequence[Node]) -> AffineMap:
    source = _positions(parents[0]).transpose(op.perm).reshape(-1)
    return (_select(source, parents[0].size),), np.zeros(node.size)


def _concat(op: ops.Concat, node: Node, parents: Sequence[Node]) -> AffineMap:
    starts = np.cumsum([0, *(p.size for p in parents)])
    parts = [_positions(p) + start for p, start in zip(parents, starts[:-1], strict=True)]
    source = np.concatenate(parts, axis=op.axis).reshape(-1)
    matrices = tuple(
        _select(np.where((source >= start) & (source < start + p.size), source - start, -1), p.size)
        for p, start in zip(parents, starts[:-1], strict=True)
    )
    return matrices, np.zeros(node.size)


def _take(op: ops.Take, node: Node, parents: Sequence[Node]) -> AffineMap:
    return (_select(op.indices.reshape(-1), parents[0].size),), np.zeros(node.size)


_RULES: dict[type, Rule] = {
    ops.Linear: _linear,
    ops.Conv: _conv,
    ops.ConvTranspose: _conv_transpose,
    ops.Scale: _scale,
    ops.Shift: _shift,
    ops.Add: _add,
    ops.Pad: _pad,
    ops.Sum: _sum,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
    ops.Concat: _concat,
    ops.Take: _take,
}
