"""Operators that rename or reorder entries: reshapes, transposes, identities."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import onnx

from closegap.frontend.trace import Call, Constant, Shape, Traced, Value
from closegap.graph import ops

__all__ = ["LAYOUT_LOWERINGS", "reshape", "transpose"]


def reshape(call: Call, value: Traced, shape: Shape) -> Traced:
    """The value under another (ONNX) shape of as many entries."""
    if prod(shape) != prod(value.shape):
        call.require_single_batch()
        call.fail(
            f"{list(value.shape)} cannot be reshaped to {list(shape)}", "export with static shapes"
        )
    return call.relabel(value, shape, call.batch_axis_in(value, shape))


def transpose(call: Call, value: Traced, perm: tuple[int, ...]) -> Traced:
    """`y.shape[i] = x.shape[perm[i]]` in ONNX axes; the batch axis may move."""
    shape = tuple(value.shape[p] for p in perm)
    axis = None if value.axis is None else perm.index(value.axis)
    order = tuple(call.stripped_axis(value, p) for p in perm if p != value.axis)
    if order == tuple(range(len(order))):
        return Traced(value.index, shape, axis)
    return call.emit(ops.Transpose(order), [value], shape, axis)


def _reshape(call: Call) -> Value:
    value = call.traced(0)
    target = call.integers("shape", 1)
    if target is None:
        call.fail("its target shape is missing", "repair the model")
    keeps_zero = not call.attribute("allowzero", 0)
    if keeps_zero and any(d == 0 and i >= len(value.shape) for i, d in enumerate(target)):
        call.fail(f"its target {list(target)} copies an axis that is not there", "repair the model")
    shape = [value.shape[i] if d == 0 and keeps_zero else d for i, d in enumerate(target)]
    if -1 in shape:
        known = prod(d for d in shape if d != -1)
        total = prod(value.shape)
        if known == 0 or total % known:
            call.require_single_batch()
            call.fail(f"{list(value.shape)} does not fit {list(target)}", "use static shapes")
        shape[shape.index(-1)] = total // known
    return reshape(call, value, tuple(shape))


def _flatten(call: Call) -> Value:
    value = call.traced(0)
    axis = call.attribute("axis", 1)
    axis = axis + len(value.shape) if axis < 0 else axis
    return reshape(call, value, (prod(value.shape[:axis]), prod(value.shape[axis:])))


def _squeeze(call: Call) -> Value:
    value = call.traced(0)
    axes = call.integers("axes", 1)
    if axes is None:
        axes = tuple(i for i, d in enumerate(value.shape) if d == 1)
    dropped = {call.axis_of(value, axis) for axis in axes}
    if any(value.shape[i] != 1 for i in dropped):
        call.require_single_batch()
        call.fail(f"axes {list(axes)} of {list(value.shape)} are not of length 1", "repair it")
    return reshape(call, value, tuple(d for i, d in enumerate(value.shape) if i not in dropped))


def _unsqueeze(call: Call) -> Value:
    value = call.traced(0)
    axes = call.integers("axes", 1)
    if axes is None:
        call.fail("its axes are missing", "repair the model")
    rank = len(value.shape) + len(axes)
    added = {axis % rank for axis in axes}
    kept = iter(value.shape)
    return reshape(call, value, tuple(1 if i in added else next(kept) for i in range(rank)))


def _transpose(call: Call) -> Value:
    value = call.traced(0)
    perm = call.attribute("perm", tuple(reversed(range(len(value.shape)))))
    return transpose(call, value, tuple(int(p) for p in perm))


def _shape(call: Call) -> Constant:
    shape = np.array(call.traced(0).shape, dtype=np.int64)
    return shape[call.attribute("start", 0) : call.attribute("end", len(shape))]


def _size(call: Call) -> Constant:
    return np.array(prod(call.traced(0).shape), dtype=np.int64)


def _identity(call: Call) -> Value:
    return call.traced(0)


def _cast(call: Call) -> Value:
    # Traced values are real numbers; comparisons give exact zeros and ones, which any type holds.
    value = call.traced(0)
    if call.attribute("to") not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
        call.fail("it turns activations into another kind of number", "remove the cast")
    if call.attribute("to") == onnx.TensorProto.DOUBLE:
        call.builder.note(f"node '{call.name}' casts to float64; the IR knows one kind of number")
    return value


def _dropout(call: Call) -> Value:
    call.require_one_output()
    if call.has(2) and bool(call.constant(2)):
        call.fail("it is in training mode", "export the model after model.eval()")
    return call.traced(0)


LAYOUT_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "Cast": _cast,
    "Dropout": _dropout,
    "Flatten": _flatten,
    "Identity": _identity,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
