"""Elementwise non-linearities, and those that are affine combinations of ReLUs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from closegap.frontend.lowering.arithmetic import add, scale, shift, subtract
from closegap.frontend.trace import Call, Traced, Value
from closegap.graph import ops
from closegap.graph.ops import Op

__all__ = ["ACTIVATION_LOWERINGS", "relu"]


def relu(call: Call, value: Traced) -> Traced:
    """`max(value, 0)`."""
    return call.emit(ops.Relu(), [value], value.shape, value.axis)


def _elementwise(op: Op) -> Callable[[Call], Value]:
    def lower(call: Call) -> Value:
        value = call.traced(0)
        return call.emit(op, [value], value.shape, value.axis)

    return lower


def _leaky(call: Call, value: Traced, slope: NDArray[np.float64]) -> Traced:
    """`x` above 0, `slope * x` below: `slope * x + (1 - slope) * relu(x)`."""
    if slope.size == 1 and 0 <= float(slope.reshape(-1)[0]) < 1:
        op = ops.LeakyRelu(float(slope.reshape(-1)[0]))
        return call.emit(op, [value], value.shape, value.axis)
    return add(call, scale(call, value, slope), scale(call, relu(call, value), 1 - slope))


def _leaky_relu(call: Call) -> Value:
    slope = np.asarray(float(call.attribute("alpha", 0.01)))  # ONNX's own default
    return _leaky(call, call.traced(0), slope)


def _prelu(call: Call) -> Value:
    return _leaky(call, call.traced(0), call.weights(1))


def _absolute(call: Call) -> Value:
    value = call.traced(0)
    return add(call, scale(call, relu(call, value), 2.0), scale(call, value, -1.0))


def _clip(call: Call) -> Value:
    """`min(max(x, low), high)` as one or two ReLUs."""
    value = call.traced(0)
    low, high = _limit(call, "min", 1, -np.inf), _limit(call, "max", 2, np.inf)
    if low == np.inf or high == -np.inf:
        call.fail("it clips everything to an infinity", "repair its limits")
    if np.isfinite(low):
        value = shift(call, relu(call, shift(call, value, -low)), low)
    if np.isfinite(high):
        below = relu(call, shift(call, scale(call, value, -1.0), high))
        value = shift(call, scale(call, below, -1.0), high)
    return value


def _limit(call: Call, name: str, index: int, default: float) -> float:
    """The limit; the greatest float32 number, by which files say that there is none, is `default`.

    Shifting by it would lose every digit of the value.
    """
    limit = float(call.attribute(name, default))
    if call.has(index):
        limit = float(call.constant(index).reshape(-1)[0])
    most = float(np.finfo(np.float32).max)
    return default if limit == math.copysign(most, default) else limit


def _greater_of(call: Call, first: Value, second: Value) -> Value:
    """`max(a, b) = b + relu(a - b)`."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.maximum(first, second)
    if not isinstance(first, Traced):
        first, second = second, first
    if not isinstance(first, Traced):
        raise AssertionError("one of them is traced")
    if isinstance(second, Traced):
        return add(call, second, relu(call, subtract(call, first, second)))
    limit = call.finite(second, "constant")
    return shift(call, relu(call, shift(call, first, -limit)), limit)


def _maximum(call: Call) -> Value:
    terms = [term for term in call.inputs if term is not None]
    return reduce(lambda first, second: _greater_of(call, first, second), terms)


def _minimum(call: Call) -> Value:
    """`min(a, b) = -max(-a, -b)`."""
    terms: list[Value] = [
        scale(call, term, -1.0) if isinstance(term, Traced) else -term
        for term in call.inputs
        if term is not None
    ]
    greatest = reduce(lambda first, second: _greater_of(call, first, second), terms)
    return scale(call, greatest, -1.0) if isinstance(greatest, Traced) else -greatest


def _softmax(call: Call) -> Value:
    """A Softmax over all outputs at the end keeps their order, so comparisons survive without."""
    value = call.traced(0)
    axis = call.axis_of(value, call.attribute("axis", 1 if call.opset < 13 else -1))
    covered = value.shape[axis : axis + 1] if call.opset >= 13 else value.shape[axis:]
    if not call.is_final or np.prod(covered) != np.prod(value.sample):
        call.fail(
            "it is not the last step over all outputs",
            "only a final Softmax can be left out; export the model without it",
        )
    call.builder.softmax_dropped = True
    call.builder.note(f"the final {call.op} was left out: comparisons of outputs do not need it")
    return value


ACTIVATION_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "Abs": _absolute,
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _softmax,
    "Max": _maximum,
    "Min": _minimum,
    "PRelu": _prelu,
    "Relu": _elementwise(ops.Relu()),
    "Sigmoid": _elementwise(ops.Sigmoid()),
    "Sign": _elementwise(ops.Sign(at_zero=0)),
    "Softmax": _softmax,
    "Tanh": _elementwise(ops.Tanh()),
}
