"""Matrix products with a constant: MatMul with the constant on either side, and Gemm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from closegap.frontend.lowering.arithmetic import add, scale, shift
from closegap.frontend.lowering.layout import transpose
from closegap.frontend.trace import Call, Traced, Value
from closegap.graph import ops

__all__ = ["LINEAR_LOWERINGS", "times_matrix"]

Array = NDArray[np.float64]


def times_matrix(call: Call, value: Traced, weight: Array) -> Traced:
    """`value @ weight.T` over the last axis; weight `[n_out, n_in]`.

    Raises:
        UnsupportedOpError: the last axis is the (free) batch axis, or has another length.
    """
    if value.axis == len(value.shape) - 1:
        value = call.absorb(value)
    if not value.shape or value.shape[-1] != weight.shape[1]:
        call.fail(
            f"a value of shape {list(value.shape)} meets a matrix of {weight.shape[1]} columns",
            "repair the model",
        )
    op = ops.Linear(weight, np.zeros(len(weight)))
    return call.emit(op, [value], (*value.shape[:-1], len(weight)), value.axis)


def _matrix(call: Call, index: int) -> Array:
    """The constant matrix, without leading axes of length 1."""
    weight = call.weights(index)
    while weight.ndim > 2 and weight.shape[0] == 1:
        weight = weight[0]
    if weight.ndim > 2:
        call.fail("its constant is a stack of matrices", "split it into one product a matrix")
    return weight


def _swap_last(call: Call, value: Traced) -> Traced:
    rank = len(value.shape)
    return transpose(call, value, (*range(rank - 2), rank - 1, rank - 2))


def _fit(call: Call, value: Traced, index: int) -> tuple[Traced, Array]:
    """The value with as many axes as the product has, and the constant as a matrix or vector."""
    extra = call.constant(index).ndim - max(2, len(value.shape))
    if extra > 0:
        value = call.relabel(call.absorb(value), (1,) * extra + value.shape, None)
    return value, _matrix(call, index)


def _dot(call: Call, value: Traced, weight: Array) -> Traced:
    """The product with one vector: the last axis vanishes."""
    product = times_matrix(call, value, weight[None])
    return call.relabel(product, product.shape[:-1], product.axis)


def _value_times_constant(call: Call, value: Traced) -> Traced:
    value, weight = _fit(call, value, 1)
    if weight.ndim == 1:
        return _dot(call, value, weight)
    return times_matrix(call, value, weight.T)


def _constant_times_value(call: Call, value: Traced) -> Traced:
    value, weight = _fit(call, value, 0)
    is_vector = len(value.shape) == 1
    columns = value if is_vector else _swap_last(call, value)
    if weight.ndim == 1:
        return _dot(call, columns, weight)
    product = times_matrix(call, columns, weight)
    return product if is_vector else _swap_last(call, product)


def _matmul(call: Call) -> Value:
    first, second = call.inputs[0], call.inputs[1]
    if isinstance(first, Traced) and isinstance(second, Traced):
        call.fail(
            "both of its inputs depend on the network's input",
            "products of activations (attention) are not supported; change the model",
        )
    if isinstance(first, Traced):
        return _value_times_constant(call, first)
    return _constant_times_value(call, call.traced(1))


def _gemm(call: Call) -> Value:
    alpha, beta = float(call.attribute("alpha", 1.0)), float(call.attribute("beta", 1.0))
    first, second = call.inputs[0], call.inputs[1]
    if isinstance(first, Traced) and isinstance(second, Traced):
        call.fail("both of its matrices depend on the network's input", "change the model")
    if isinstance(first, Traced):
        left = _swap_last(call, first) if call.attribute("transA", 0) else first
        weight = call.weights(1) if call.attribute("transB", 0) else call.weights(1).T
        product = times_matrix(call, left, alpha * weight if alpha != 1 else weight)
    else:
        right = call.traced(1)
        right = right if call.attribute("transB", 0) else _swap_last(call, right)
        weight = call.weights(0).T if call.attribute("transA", 0) else call.weights(0)
        product = _swap_last(call, times_matrix(call, right, alpha * weight))
    if not call.has(2) or beta == 0:
        return product
    if isinstance(call.inputs[2], Traced):
        return add(call, product, scale(call, call.traced(2), beta))
    return shift(call, product, beta * call.weights(2))


LINEAR_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
}
