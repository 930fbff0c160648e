"""Crossing one activation backward: coefficients on its output become ones on its input.

A positive coefficient takes the lower line, a negative one the upper. Written with clamps and
products: selections by a mask (`torch.where`) are not vectorised on CPUs and cost twenty times as
much as a product.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from closegap.bounds.layout import flat_pair
from closegap.bounds.records import Relaxation

__all__ = ["cross", "dot", "with_slopes"]


def cross(spread: Tensor, coefficients: Tensor, lines: Relaxation) -> tuple[Tensor, Tensor | None]:
    """Coefficients on the activation's input, and the constant `[B, Q]` (`None` for zero).

    Args:
        spread: the coefficients, broadcastable against the slopes.
        coefficients: `[B, Q, *output shape]`.
        lines: slopes `[B or 1, Q or 1, *input shape]`, intercepts likewise on the output.
    """
    if _only_lower_slope_varies(lines):
        assert lines.upper_intercept is not None
        moved, constant = _HingeCrossing.apply(  # type: ignore[no-untyped-call]  # torch has no types
            coefficients, lines.lower_slope, lines.upper_slope, lines.upper_intercept
        )
        return cast(Tensor, moved), cast(Tensor, constant)
    positive, negative = spread.clamp(min=0), spread.clamp(max=0)
    both = torch.addcmul(positive * lines.lower_slope, negative, lines.upper_slope)
    total: Tensor | None = None
    if lines.lower_intercept is not None:
        total = dot(coefficients.clamp(min=0), lines.lower_intercept)
    if lines.upper_intercept is not None:
        above = dot(coefficients.clamp(max=0), lines.upper_intercept)
        total = above if total is None else total + above
    return both, total


def dot(rows: Tensor, vector: Tensor) -> Tensor:
    """`[B, Q, ...] . [B or 1, Q or 1, ...] -> [B, Q]`, as a matrix product where it is one."""
    flat, other = flat_pair(rows, vector.expand(*vector.shape[:2], *rows.shape[2:]))
    if other.shape[1] == 1:
        if other.shape[0] == 1:
            return flat @ other[0, 0]
        return torch.matmul(flat, other.transpose(1, 2))[..., 0]
    return (flat * other).sum(2)


def with_slopes(lines: Relaxation, parameters: Tensor) -> Relaxation:
    """Lines that have a choice, with other parameters `[B or 1, Q or 1, *shape]`."""
    assert lines.choice is not None
    slope = torch.lerp(lines.lower_slope, parameters, lines.choice)
    return Relaxation(slope, lines.upper_slope, None, lines.upper_intercept, lines.choice)


def _only_lower_slope_varies(lines: Relaxation) -> bool:
    """ReLU and leaky ReLU: the shapes agree, and only the lower slope may want a gradient."""
    return lines.choice is not None and lines.lower_intercept is None


class _HingeCrossing(torch.autograd.Function):
    """`cross` of a ReLU; keeps two tensors for the gradient where plain operations keep six."""

    @staticmethod
    def forward(
        ctx: Any, coefficients: Tensor, lower: Tensor, upper: Tensor, intercept: Tensor
    ) -> tuple[Tensor, Tensor]:
        negative = coefficients.clamp(max=0)
        moved = torch.addcmul(coefficients.clamp(min=0) * lower, negative, upper)
        ctx.save_for_backward(coefficients, lower, upper, intercept)
        return moved, dot(negative, intercept)

    @staticmethod
    def backward(ctx: Any, moved: Tensor, constant: Tensor) -> tuple[Tensor | None, ...]:
        coefficients, lower, upper, intercept = ctx.saved_tensors
        for_rows = for_slope = None
        if ctx.needs_input_grad[0]:
            positive = coefficients.sign().clamp(min=0)
            tail = (1,) * (coefficients.dim() - 2)
            above = torch.addcmul(
                constant.reshape(*constant.shape, *tail) * intercept, upper, moved
            )
            for_rows = torch.lerp(above, moved * lower, positive).sum_to_size(coefficients.shape)
        if ctx.needs_input_grad[1]:
            for_slope = (coefficients.clamp(min=0) * moved).sum_to_size(lower.shape)
        return for_rows, for_slope, None, None
