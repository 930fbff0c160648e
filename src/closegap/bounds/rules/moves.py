"""Ops that move entries and change none: reshape, transpose, pad, concatenate, take.

Their intervals are exact and they round nothing; each adds its adjoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor

from closegap.bounds.records import Interval
from closegap.bounds.rules.base import Shape
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights, forward_node

__all__ = ["ConcatRule", "PadRule", "ReshapeRule", "TakeRule", "TransposeRule"]

Adjoint = tuple[list[Tensor], Tensor | None]


def _moved_interval(node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
    """The range of a move: the ends move with the entries."""
    return Interval(
        forward_node(node, weights, [p.lower for p in parents]),
        forward_node(node, weights, [p.upper for p in parents]),
    )


class ReshapeRule:
    """The same entries under another shape."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _moved_interval(node, weights, parents)

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        return forward_node(node, weights, parents), 0

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        return [coefficients.reshape(*coefficients.shape[:2], *shapes[0])], None


class TransposeRule:
    """Permuted axes."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _moved_interval(node, weights, parents)

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        return forward_node(node, weights, parents), 0

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        perm = cast(ops.Transpose, node.op).perm
        back = sorted(range(len(perm)), key=perm.__getitem__)
        return [coefficients.permute(0, 1, *(axis + 2 for axis in back))], None


class PadRule:
    """Zeros around."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _moved_interval(node, weights, parents)

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        return forward_node(node, weights, parents), 0

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        pads = cast(ops.Pad, node.op).pads
        cut = [slice(b, b + n) for (b, _), n in zip(pads, shapes[0], strict=True)]
        return [coefficients[(slice(None), slice(None), *cut)]], None


class ConcatRule:
    """Inputs side by side."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _moved_interval(node, weights, parents)

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        return forward_node(node, weights, parents), 0

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        axis = cast(ops.Concat, node.op).axis
        sizes = [shape[axis] for shape in shapes]
        return list(torch.split(coefficients, sizes, dim=axis + 2)), None


class TakeRule:
    """Selected entries, with repeats."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`."""
        return _moved_interval(node, weights, parents)

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> Adjoint:
        """See `AffineRule`."""
        flat = coefficients.flatten(2)
        empty = flat.new_zeros(*flat.shape[:2], prod(shapes[0]))
        moved = empty.index_add(2, weights["indices"].reshape(-1), flat)
        return [moved.reshape(*flat.shape[:2], *shapes[0])], None

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`. Repeats are summed on the way back."""
        return forward_node(node, weights, parents), node.size
