"""Comparisons with constants, as binarized networks use them: signs in disguise.

A comparison gives 0 or 1: `[x >= c] = (sign(x - c) + 1) / 2` with `sign(0) = +1`, and
`[x > c] = 1 - [-x >= -c]`. `Where` with constant branches is affine in such a value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from closegap.frontend.lowering.arithmetic import scale, shift, subtract
from closegap.frontend.trace import Call, Traced, Value
from closegap.graph import ops

__all__ = ["COMPARISON_LOWERINGS"]


def _not_negative(call: Call, value: Traced) -> Traced:
    """`[value >= 0]` as 0 or 1."""
    sign = call.emit(ops.Sign(at_zero=1), [value], value.shape, value.axis)
    return shift(call, scale(call, sign, 0.5), 0.5)


def _difference(call: Call) -> Traced:
    """First input minus the second, one of them traced. Its sign is that of the comparison."""
    first, second = call.inputs[0], call.inputs[1]
    if isinstance(first, Traced) and isinstance(second, Traced):
        return subtract(call, first, second)
    if isinstance(first, Traced):
        return shift(call, first, -call.weights(1))
    return shift(call, scale(call, call.traced(1), -1.0), call.weights(0))


def _comparison(factor: float, negated: bool) -> Callable[[Call], Value]:
    """`[factor * (a - b) >= 0]`, or its opposite."""

    def lower(call: Call) -> Value:
        difference = _difference(call)
        turned = difference if factor == 1 else scale(call, difference, factor)
        truth = _not_negative(call, turned)
        return shift(call, scale(call, truth, -1.0), 1.0) if negated else truth

    return lower


def _where(call: Call) -> Value:
    condition = call.traced(0)
    if isinstance(call.inputs[1], Traced) or isinstance(call.inputs[2], Traced):
        call.fail("a branch depends on the network's input", "use Max, Min or Relu instead")
    yes, no = call.weights(1), call.weights(2)
    difference: NDArray[np.float64] = yes - no
    return shift(call, scale(call, condition, difference), no)


COMPARISON_LOWERINGS: dict[str, Callable[[Call], Value | tuple[Value, ...]]] = {
    "Greater": _comparison(-1.0, True),
    "GreaterOrEqual": _comparison(1.0, False),
    "Less": _comparison(1.0, True),
    "LessOrEqual": _comparison(-1.0, False),
    "Where": _where,
}
