"""Which two affine ops become one, and how: one function a pair, one registry line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.graph import ops
from closegap.graph.network import Node

__all__ = ["MERGES", "Merge", "does_nothing", "rearranged"]

Array: TypeAlias = NDArray[np.float64]
Merge: TypeAlias = Callable[[Node, Node], ops.Op | None]
Weighted: TypeAlias = ops.Linear | ops.Conv | ops.ConvTranspose


def does_nothing(node: Node, parent: Node) -> bool:
    """True iff the node gives its input back as it is."""
    if node.shape != parent.shape:
        return False
    op = node.op
    if isinstance(op, ops.Scale):
        return bool((op.factor == 1).all())
    if isinstance(op, ops.Shift):
        return bool((op.offset == 0).all())
    if isinstance(op, ops.Transpose):
        return op.perm == tuple(range(len(op.perm)))
    if isinstance(op, ops.Take):
        return bool((op.indices == np.arange(parent.size)).all())
    return isinstance(op, ops.Reshape | ops.Concat)


def rearranged(parent: Node, node: Node) -> ops.Op:
    """The parent's scale or shift, for the entries as the node (a Reshape, Transpose) has them."""
    values = parent.op.factor if isinstance(parent.op, ops.Scale) else _offset(parent.op)
    if isinstance(node.op, ops.Transpose):
        wide = values.reshape((1,) * (len(parent.shape) - values.ndim) + values.shape)
        moved: Array = np.transpose(wide, node.op.perm)
    else:
        moved = np.array(np.broadcast_to(values, parent.shape)).reshape(node.shape)
    return ops.Scale(moved) if isinstance(parent.op, ops.Scale) else ops.Shift(moved)


def _offset(op: ops.Op) -> Array:
    if not isinstance(op, ops.Shift):
        raise AssertionError(f"{op} is not a shift")
    return op.offset


def _along(values: Array, node: Node, axis: int) -> Array | None:
    """The values as one number an entry of `axis`, or `None` where they vary along others."""
    wide = values.reshape((1,) * (len(node.shape) - values.ndim) + values.shape)
    if any(d != 1 and i != axis for i, d in enumerate(wide.shape)):
        full = np.broadcast_to(wide, node.shape)
        first = full[tuple(slice(None) if i == axis else slice(0, 1) for i in range(full.ndim))]
        if not (full == first).all():
            return None
        wide = first
    return np.broadcast_to(wide.reshape(-1), (node.shape[axis],))


def _weighted(node: Node) -> Weighted:
    if not isinstance(node.op, Weighted):
        raise AssertionError(f"{node.op} has no weights")
    return node.op


def _is_integral(weight: Array) -> bool:
    return bool((weight == np.rint(weight)).all())


def _channel_axis(op: ops.Op, node: Node) -> int:
    return len(node.shape) - 1 if isinstance(op, ops.Linear) else 0


def _shift_after(parent: Node, node: Node) -> ops.Op | None:
    op = _weighted(parent)
    values = _along(_offset(node.op), node, _channel_axis(op, node))
    return None if values is None else replace(op, bias=op.bias + values)


def _scale_after(parent: Node, node: Node) -> ops.Op | None:
    op = _weighted(parent)
    assert isinstance(node.op, ops.Scale)
    values = _along(node.op.factor, node, _channel_axis(op, node))
    if values is None or _is_integral(op.weight):
        return None
    if isinstance(op, ops.ConvTranspose):
        rows = np.repeat(values.reshape(op.groups, -1), len(op.weight) // op.groups, axis=0)
        return replace(op, weight=op.weight * rows[:, :, None, None], bias=op.bias * values)
    rows = values.reshape(-1, *(1,) * (op.weight.ndim - 1))
    return replace(op, weight=op.weight * rows, bias=op.bias * values)


def _scale_before(parent: Node, node: Node) -> ops.Op | None:
    op = _weighted(node)
    assert isinstance(parent.op, ops.Scale)
    values = _along(parent.op.factor, parent, _channel_axis(op, parent))
    if values is None or _is_integral(op.weight):
        return None
    if isinstance(op, ops.Linear):
        return replace(op, weight=op.weight * values)
    if isinstance(op, ops.ConvTranspose):
        return replace(op, weight=op.weight * values[:, None, None, None])
    columns = np.repeat(values.reshape(op.groups, -1), len(op.weight) // op.groups, axis=0)
    return replace(op, weight=op.weight * columns[:, :, None, None])


def _shift_before(parent: Node, node: Node) -> ops.Op | None:
    op = _weighted(node)
    values = _along(_offset(parent.op), parent, _channel_axis(op, parent))
    if values is None:
        return None
    if isinstance(op, ops.Linear):
        return replace(op, bias=op.bias + op.weight @ values)
    if any(op.pads):
        return None
    columns = np.repeat(values.reshape(op.groups, -1), len(op.weight) // op.groups, axis=0)
    moved = (op.weight.sum(axis=(2, 3)) * columns).sum(axis=1)
    return replace(op, bias=op.bias + moved)


def _linear_linear(parent: Node, node: Node) -> ops.Op | None:
    first, second = parent.op, node.op
    assert isinstance(first, ops.Linear) and isinstance(second, ops.Linear)
    merged = len(second.weight) * first.weight.shape[1]
    if merged > first.weight.size + second.weight.size:
        return None
    return ops.Linear(second.weight @ first.weight, second.weight @ first.bias + second.bias)


def _scale_scale(parent: Node, node: Node) -> ops.Op | None:
    assert isinstance(parent.op, ops.Scale) and isinstance(node.op, ops.Scale)
    return ops.Scale(parent.op.factor * node.op.factor)


def _shift_shift(parent: Node, node: Node) -> ops.Op | None:
    return ops.Shift(_offset(parent.op) + _offset(node.op))


def _transpose_transpose(parent: Node, node: Node) -> ops.Op | None:
    assert isinstance(parent.op, ops.Transpose) and isinstance(node.op, ops.Transpose)
    first = parent.op.perm
    return ops.Transpose(tuple(first[axis] for axis in node.op.perm))


def _take_take(parent: Node, node: Node) -> ops.Op | None:
    assert isinstance(parent.op, ops.Take) and isinstance(node.op, ops.Take)
    return ops.Take(parent.op.indices[node.op.indices])


def _pad_conv(parent: Node, node: Node) -> ops.Op | None:
    assert isinstance(parent.op, ops.Pad) and isinstance(node.op, ops.Conv)
    channels, rows, columns = parent.op.pads
    if channels != (0, 0):
        return None
    top, left, bottom, right = node.op.pads
    pads = (top + rows[0], left + columns[0], bottom + rows[1], right + columns[1])
    return replace(node.op, pads=pads)


def _second(parent: Node, node: Node) -> ops.Op | None:
    return node.op


#: (type of an op, type of the op that reads it) -> one op that does both, or `None` where that
#: would not be exact.
MERGES: dict[tuple[type, type], Merge] = {
    (ops.Linear, ops.Shift): _shift_after,
    (ops.Conv, ops.Shift): _shift_after,
    (ops.ConvTranspose, ops.Shift): _shift_after,
    (ops.Linear, ops.Scale): _scale_after,
    (ops.Conv, ops.Scale): _scale_after,
    (ops.ConvTranspose, ops.Scale): _scale_after,
    (ops.Scale, ops.Linear): _scale_before,
    (ops.Scale, ops.Conv): _scale_before,
    (ops.Scale, ops.ConvTranspose): _scale_before,
    (ops.Shift, ops.Linear): _shift_before,
    (ops.Shift, ops.Conv): _shift_before,
    (ops.Linear, ops.Linear): _linear_linear,
    (ops.Scale, ops.Scale): _scale_scale,
    (ops.Shift, ops.Shift): _shift_shift,
    (ops.Transpose, ops.Transpose): _transpose_transpose,
    (ops.Take, ops.Take): _take_take,
    (ops.Reshape, ops.Take): _second,
    (ops.Reshape, ops.Reshape): _second,
    (ops.Relu, ops.Relu): _second,
    (ops.Pad, ops.Conv): _pad_conv,
}
