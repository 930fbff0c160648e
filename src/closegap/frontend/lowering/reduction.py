"""Sums, means and maxima over constant axes."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from closegap.frontend.lowering.arithmetic import scale
from closegap.frontend.lowering.layout import transpose
from closegap.frontend.trace import Call, Traced, Value
from closegap.graph import ops

__all__ = ["REDUCTION_LOWERINGS"]


def _reduced_axes(call: Call, value: Traced) -> tuple[Traced, tuple[int, ...]]:
    """The value and the ONNX axes to reduce, none of them the batch axis; sorted."""
    axes = call.integers("axes", 1)
    if axes is None or not axes:
        everything = () if call.attribute("noop_with_empty_axes", 0) else range(len(value.shape))
        axes = tuple(everything)
    chosen = tuple(sorted({call.axis_of(value, axis) for axis in axes}))
    if value.axis in chosen:
        value = call.absorb(value)
    return value, chosen


def _finish(call: Call, result: Traced, value: Traced, axes: tuple[int, ...]) -> Traced:
    """Put the reduced axes back with length 1 where the node keeps them."""
    if not call.attribute("keepdims", 1):
        return result
    shape = tuple(1 if i in axes else d for i, d in enumerate(value.shape))
    return call.relabel(result, shape, value.axis)


def _total(call: Call, value: Traced, axes: tuple[int, ...]) -> Traced:
    kept = [i for i in range(len(value.shape)) if i not in axes]
    axis = None if value.axis is None else kept.index(value.axis)
    shape = tuple(value.shape[i] for i in kept)
    if len(axes) == len(value.sample):  # one number is left: a row of ones gives it
        entries = prod(value.sample)
        batch = () if axis is None else shape
        rows = call.relabel(value, (*batch, entries), axis)
        total = ops.Linear(np.ones((1, entries)), np.zeros(1))
        return call.emit(total, [rows], shape, axis)
    op = ops.Sum(tuple(call.stripped_axis(value, i) for i in axes))
    return call.emit(op, [value], shape, axis)


def _reduce_sum(call: Call) -> Value:
    value, axes = _reduced_axes(call, call.traced(0))
    return _finish(call, _total(call, value, axes), value, axes) if axes else value


def _reduce_mean(call: Call) -> Value:
    value, axes = _reduced_axes(call, call.traced(0))
    if not axes:
        return value
    mean = scale(call, _total(call, value, axes), 1.0 / prod(value.shape[i] for i in axes))
    return _finish(call, mean, value, axes)


def _reduce_max(call: Call) -> Value:
    value, axes = _reduced_axes(call, call.traced(0))
    if not axes:
        return value
    kept = tuple(i for i in range(len(value.shape)) if i not in axes)
    moved = transpose(call, value, kept + axes)
    shape = tuple(value.shape[i] for i in kept)
    length = prod(value.shape[i] for i in axes)
    batch_only = len(axes) == len(value.sample)
    wide = (*shape, 1, length) if batch_only else (*shape, length)
    rows = call.relabel(moved, wide, moved.axis)
    return _finish(call, call.emit(ops.Max(), [rows], shape, moved.axis), value, axes)


REDUCTION_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "ReduceMax": _reduce_max,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
}
