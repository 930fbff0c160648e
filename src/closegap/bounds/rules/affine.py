"""The ops that sum with weights.

They share one interval rule (middle and half width, with absolute weights) and one magnitude rule;
each adds its adjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from closegap.bounds.layout import arranged, flat_pair
from closegap.bounds.records import Interval
from closegap.bounds.regions import underflow
from closegap.bounds.rules.base import Shape
from closegap.core.numerics import gamma
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights, forward_node

__all__ = [
    "AddRule",
    "ConvRule",
    "ConvTransposeRule",
    "LinearRule",
    "ScaleRule",
    "ShiftRule",
    "SumRule",
]

Adjoint = tuple[list[Tensor], Tensor | None]

#: Values that are smaller round like ones of this size, in the allowance of intervals.
_LEAST_SIZE = 2.0**-20


def _fold(coefficients: Tensor) -> Tensor:
    """`[B, Q, ...] -> [B * Q, ...]`."""
    return coefficients.flatten(0, 1)


def _unfold(folded: Tensor, like: Tensor) -> Tensor:
    """`[B * Q, ...] -> [B, Q, ...]`."""
    return folded.reshape(*like.shape[:2], *folded.shape[1:])


def _absolute(weights: NodeWeights) -> NodeWeights:
    return {k: w.abs() if w.is_floating_point() else w for k, w in weights.items()}


def _lifted(size: Tensor) -> Tensor:
    """The sizes, at least `_LEAST_SIZE` where they are not zero."""
    return size.clamp(min=_LEAST_SIZE) * (size != 0)


def _without_bias(weights: NodeWeights) -> NodeWeights:
    zero = {"bias", "offset"}
    return {k: torch.zeros_like(w) if k in zero else w for k, w in weights.items()}


def _weighted_magnitude(node: Node, weights: NodeWeights, parents: Sequence[Tensor]) -> Tensor:
    """`sum |weight| |input| + |bias|`, `[B, *shape]`."""
    return forward_node(node, _absolute(weights), parents)


def _weighted_interval(
    node: Node, weights: NodeWeights, parents: Sequence[Interval], terms: int
) -> Interval:
    """The range of a weighted sum of `terms` terms over the parents' boxes, rounded outward.

    Products may underflow, so an entry's allowance has a constant, unless all its terms are zero:
    what is exactly zero stays so. That sizes are lifted tells the two apart, for weights are normal
    numbers.
    """
    middle = forward_node(node, weights, [(p.lower + p.upper) / 2 for p in parents])
    sizes = _absolute(weights)
    half = forward_node(node, _without_bias(sizes), [(p.upper - p.lower) / 2 for p in parents])
    size = forward_node(node, sizes, [_lifted(p.magnitude) for p in parents])
    vanished = (4 * terms + 16) * underflow(middle.dtype)
    unit = float(torch.finfo(middle.dtype).eps) / 2
    rounding = 3 * gamma(terms + 4, unit) * size + vanished * (size != 0)
    return Interval(middle - half - rounding, middle + half + rounding)


def _bias(coefficients: Tensor, bias: Tensor) -> Tensor:
    """`[B, Q, C, H, W]` times one bias for each channel, `[B, Q]`."""
    shape = coefficients.shape[2:]
    flat, constant = flat_pair(coefficients, bias[None, None, :, None, None].expand(1, 1, *shape))
    return flat @ constant[0, 0]


class LinearRule:
    """`y = x W^T + b` over the last axis."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _weighted_interval(node, weights, parents, weights["weight"].shape[1])

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        leading = coefficients.shape[:2]
        constant = (coefficients @ weights["bias"]).reshape(*leading, -1).sum(2)
        return [coefficients @ weights["weight"]], constant

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        terms = weights["weight"].shape[1]
        return _weighted_magnitude(node, weights, parents), max(terms, node.size)


class ConvRule:
    """Two-dimensional convolution."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _weighted_interval(node, weights, parents, prod(weights["weight"].shape[1:]))

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        op = cast(ops.Conv, node.op)
        moved = _transposed(arranged(_fold(coefficients)), weights["weight"], op, shapes[0][1:])
        constant = _bias(coefficients, weights["bias"])
        return [_unfold(moved, coefficients)], constant

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        kernel = prod(weights["weight"].shape[2:])
        terms = kernel * max(weights["weight"].shape[0], weights["weight"].shape[1])
        return _weighted_magnitude(node, weights, parents), terms + node.size


def _transposed(folded: Tensor, weight: Tensor, op: ops.Conv, size: Shape) -> Tensor:
    """The transposed convolution, cut to the `size` that lies within the pads."""
    kernel = weight.shape[2:]
    sides = zip(folded.shape[2:], op.stride, op.dilation, kernel, op.pads[:2], size, strict=True)
    further = [n - ((m - 1) * s - 2 * p + d * (k - 1) + 1) for m, s, d, k, p, n in sides]
    reach = [max(s, d) for s, d in zip(op.stride, op.dilation, strict=True)]
    if any(f >= r for f, r in zip(further, reach, strict=True)):
        return _window(
            F.conv_transpose2d(folded, weight, None, op.stride, 0, 0, op.groups, op.dilation),
            op.pads,
            size,
        )
    more = [max(0, f) for f in further]
    moved = F.conv_transpose2d(
        folded, weight, None, op.stride, op.pads[:2], more, op.groups, op.dilation
    )
    return moved[:, :, : size[0], : size[1]]


def _window(full: Tensor, pads: tuple[int, int, int, int], size: Shape) -> Tensor:
    """Cut `size` out of an unpadded transposed convolution, from the top left pads on."""
    top, left = pads[:2]
    height, width = size
    low, right = top + height - full.shape[2], left + width - full.shape[3]
    if low > 0 or right > 0:
        full = F.pad(full, (0, max(0, right), 0, max(0, low)))
    return full[:, :, top : top + height, left : left + width]


class ConvTransposeRule:
    """Transposed convolution."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _weighted_interval(node, weights, parents, self._terms(weights))

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        op = cast(ops.ConvTranspose, node.op)
        folded = _fold(coefficients)
        kernel = weights["weight"].shape[2:]
        height, width = (
            (n - 1) * s + d * (k - 1) + 1
            for n, s, d, k in zip(shapes[0][1:], op.stride, op.dilation, kernel, strict=True)
        )
        top, left = op.pads[:2]
        placed = F.pad(folded, (left, 0, top, 0))[:, :, :height, :width]
        missing = (0, width - placed.shape[3], 0, height - placed.shape[2])
        moved = F.conv2d(
            F.pad(placed, missing), weights["weight"], None, op.stride, 0, op.dilation, op.groups
        )
        constant = _bias(coefficients, weights["bias"])
        return [_unfold(moved, coefficients)], constant

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        return _weighted_magnitude(node, weights, parents), self._terms(weights) + node.size

    @staticmethod
    def _terms(weights: NodeWeights) -> int:
        return prod(weights["weight"].shape)


class ScaleRule:
    """Multiplication by a constant."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _weighted_interval(node, weights, parents, 1)

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        return [coefficients * weights["factor"]], None

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        return _weighted_magnitude(node, weights, parents), 1


class ShiftRule:
    """Addition of a constant."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _weighted_interval(node, weights, parents, 2)

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        offset = weights["offset"].expand(node.shape).reshape(-1)
        return [coefficients], coefficients.flatten(2) @ offset

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        return _weighted_magnitude(node, weights, parents), 2 + node.size


class AddRule:
    """Sum of two nodes."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _weighted_interval(node, weights, parents, 2)

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        return [coefficients, coefficients], None

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`. Two branches that meet again are added once at their common input."""
        return _weighted_magnitude(node, weights, parents), 2


class SumRule:
    """Sum over axes."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        terms = parents[0].lower[0].numel() // max(1, node.size)
        return _weighted_interval(node, weights, parents, terms)

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        op = cast(ops.Sum, node.op)
        kept = [1 if axis in op.axes else size for axis, size in enumerate(shapes[0])]
        leading = coefficients.shape[:2]
        return [coefficients.reshape(*leading, *kept).expand(*leading, *shapes[0])], None

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        terms = parents[0][0].numel() // max(1, node.size)
        return _weighted_magnitude(node, weights, parents), terms
