"""Sums, differences, products and quotients with constants; sums of two values; normalisation."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import onnx
from numpy.typing import NDArray

from closegap.frontend.trace import Call, Shape, Traced, Value
from closegap.graph import ops

__all__ = ["ARITHMETIC_LOWERINGS", "add", "broadcast_to", "scale", "shift", "subtract"]

Array = NDArray[np.float64]

#: ONNX's own default, where a file does not say.
_EPSILON = onnx.defs.get_schema("BatchNormalization").attributes["epsilon"].default_value.f


def scale(call: Call, value: Traced, factor: Array | float) -> Traced:
    """`value * factor`, with ONNX broadcasting."""
    value, factor = _align(call, value, np.asarray(factor, dtype=np.float64))
    return call.emit(ops.Scale(factor), [value], value.shape, value.axis)


def shift(call: Call, value: Traced, offset: Array | float) -> Traced:
    """`value + offset`, with ONNX broadcasting."""
    value, offset = _align(call, value, np.asarray(offset, dtype=np.float64))
    return call.emit(ops.Shift(offset), [value], value.shape, value.axis)


def add(call: Call, first: Traced, second: Traced) -> Traced:
    """`first + second`, with ONNX broadcasting."""
    rank = max(len(first.shape), len(second.shape))
    first, second = _raise_rank(call, first, rank), _raise_rank(call, second, rank)
    if first.axis != second.axis:
        first, second = call.absorb(first), call.absorb(second)
    shape = _broadcast_shape(call, first.shape, second.shape)
    first, second = broadcast_to(call, first, shape), broadcast_to(call, second, shape)
    return call.emit(ops.Add(), [first, second], shape, first.axis)


def subtract(call: Call, first: Traced, second: Traced) -> Traced:
    """`first - second`, with ONNX broadcasting."""
    return add(call, first, scale(call, second, -1.0))


def broadcast_to(call: Call, value: Traced, shape: Shape) -> Traced:
    """The value repeated along axes of length 1 until it has `shape`."""
    value = _raise_rank(call, value, len(shape))
    if value.shape == shape:
        return value
    if value.axis is not None and shape[value.axis] != value.shape[value.axis]:
        value = call.absorb(value)
    sample = tuple(d for i, d in enumerate(shape) if i != value.axis)
    entries = np.arange(np.prod(value.sample, dtype=np.int64)).reshape(value.sample)
    chosen = np.broadcast_to(entries, sample).reshape(-1).copy()
    flat = call.builder.emit(ops.Take(chosen), [value.index], (len(chosen),), call.name)
    return call.relabel(Traced(flat, (len(chosen),), None), shape, value.axis)


def _raise_rank(call: Call, value: Traced, rank: int) -> Traced:
    missing = rank - len(value.shape)
    if missing <= 0:
        return value
    axis = None if value.axis is None else value.axis + missing
    return call.relabel(value, (1,) * missing + value.shape, axis)


def _broadcast_shape(call: Call, first: Shape, second: Shape) -> Shape:
    if any(a != b and 1 not in (a, b) for a, b in zip(first, second, strict=True)):
        call.fail(f"{list(first)} and {list(second)} cannot be broadcast", "repair the model")
    return tuple(b if a == 1 else a for a, b in zip(first, second, strict=True))


def _align(call: Call, value: Traced, array: Array) -> tuple[Traced, Array]:
    """Both of one rank, the array never wider than the value, its batch axis removed."""
    rank = max(array.ndim, len(value.shape))
    value = _raise_rank(call, value, rank)
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    if value.axis is not None and array.shape[value.axis] != 1:
        value = call.absorb(value)
    shape = _broadcast_shape(call, value.shape, array.shape)
    value = broadcast_to(call, value, shape)
    return value, array if value.axis is None else array.squeeze(value.axis)


def _binary(
    on_constant: Callable[[Call, Traced, Array, bool], Traced],
    on_traced: Callable[[Call, Traced, Traced], Traced],
) -> Callable[[Call], Value]:
    """A lowering of an operator of two inputs; the flag says that the constant came first."""

    def lower(call: Call) -> Value:
        first, second = call.inputs[0], call.inputs[1]
        if isinstance(first, Traced) and isinstance(second, Traced):
            return on_traced(call, first, second)
        if isinstance(first, Traced):
            return on_constant(call, first, call.weights(1), False)
        return on_constant(call, call.traced(1), call.weights(0), True)

    return lower


def _refuse_bilinear(call: Call, first: Traced, second: Traced) -> Traced:
    call.fail(
        "both of its inputs depend on the network's input",
        "only products and quotients with constants are affine; change the model",
    )


def _subtract_constant(call: Call, value: Traced, array: Array, reverse: bool) -> Traced:
    return shift(call, scale(call, value, -1.0), array) if reverse else shift(call, value, -array)


def _divide_constant(call: Call, value: Traced, array: Array, reverse: bool) -> Traced:
    if reverse:
        call.fail("it divides by a value that depends on the input", "change the model")
    if (array == 0).any():
        call.fail("it divides by zero", "repair the constant")
    return scale(call, value, 1.0 / array)


def _negate(call: Call) -> Value:
    return scale(call, call.traced(0), -1.0)


def _sum(call: Call) -> Value:
    """The n-ary sum; constants among its terms become one shift."""
    terms = [call.inputs[i] for i in range(len(call.inputs))]
    traced = [term for term in terms if isinstance(term, Traced)]
    total = reduce(lambda first, second: add(call, first, second), traced)
    for index, term in enumerate(terms):
        if not isinstance(term, Traced):
            total = shift(call, total, call.weights(index))
    return total


def _batch_normalization(call: Call) -> Value:
    if call.attribute("training_mode", 0):
        call.fail("it is in training mode", "export the model after model.eval()")
    call.require_one_output()
    value = call.leading(call.traced(0))
    gain, offset, mean, variance = (call.weights(i) for i in range(1, 5))
    spread = variance + call.attribute("epsilon", _EPSILON)
    if (spread <= 0).any():
        call.fail("a variance plus epsilon is not positive", "repair the model")
    factor = gain / np.sqrt(spread)
    channels = (-1,) + (1,) * (len(value.shape) - 2)
    normal = scale(call, value, factor.reshape(channels))
    return shift(call, normal, (offset - mean * factor).reshape(channels))


ARITHMETIC_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "Add": _binary(lambda call, value, array, reverse: shift(call, value, array), add),
    "BatchNormalization": _batch_normalization,
    "Div": _binary(_divide_constant, _refuse_bilinear),
    "Mul": _binary(lambda call, value, array, reverse: scale(call, value, array), _refuse_bilinear),
    "Neg": _negate,
    "Sub": _binary(_subtract_constant, subtract),
    "Sum": _sum,
}
