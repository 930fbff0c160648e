"""Ops that move entries and change none: reshape, transpose, pad, concatenate, take.

One rule serves them all: their intervals are exact, and each op only adds how coefficients go back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from closegap.bounds.records import Interval
from closegap.bounds.rules.base import Shape
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights, forward_node

__all__ = ["CONCAT", "PAD", "RESHAPE", "TAKE", "TRANSPOSE", "MoveRule"]

Back: TypeAlias = Callable[[Any, NodeWeights, Tensor, Sequence[Shape]], list[Tensor]]


@dataclass(frozen=True)
class MoveRule:
    """A move of entries.

    Attributes:
        back: moves coefficients `[B, Q, *shape]` to each input, from the op, its weights, the
            coefficients and the inputs' shapes.
        repeats: an entry may be read more than once, so that coefficients are summed on the way.
    """

    back: Back
    repeats: bool = False

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `AffineRule`: the ends move with the entries."""
        return Interval(
            forward_node(node, weights, [p.lower for p in parents]),
            forward_node(node, weights, [p.upper for p in parents]),
        )

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> tuple[list[Tensor], Tensor | None]:
        """See `AffineRule`."""
        return self.back(node.op, weights, coefficients, shapes), None

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """See `AffineRule`."""
        return forward_node(node, weights, parents), node.size if self.repeats else 0


def _reshape(
    op: ops.Reshape, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
) -> list[Tensor]:
    return [coefficients.reshape(*coefficients.shape[:2], *shapes[0])]


def _transpose(
    op: ops.Transpose, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
) -> list[Tensor]:
    back = sorted(range(len(op.perm)), key=op.perm.__getitem__)
    return [coefficients.permute(0, 1, *(axis + 2 for axis in back))]


def _pad(
    op: ops.Pad, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
) -> list[Tensor]:
    cut = [slice(b, b + n) for (b, _), n in zip(op.pads, shapes[0], strict=True)]
    return [coefficients[(slice(None), slice(None), *cut)]]


def _concat(
    op: ops.Concat, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
) -> list[Tensor]:
    sizes = [shape[op.axis] for shape in shapes]
    return list(torch.split(coefficients, sizes, dim=op.axis + 2))


def _take(
    op: ops.Take, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
) -> list[Tensor]:
    flat, size = coefficients.flatten(2), prod(shapes[0])
    first = int(op.indices.flat[0]) if op.indices.size else 0
    run = np.arange(first, first + op.indices.size)
    if first >= 0 and np.array_equal(op.indices.reshape(-1), run):  # padding below zero would crop
        padded = F.pad(flat, (first, size - first - op.indices.size))
        return [padded.reshape(*flat.shape[:2], *shapes[0])]
    empty = flat.new_zeros(*flat.shape[:2], size)
    moved = empty.index_add(2, weights["indices"].reshape(-1), flat)
    return [moved.reshape(*flat.shape[:2], *shapes[0])]


RESHAPE = MoveRule(_reshape)
TRANSPOSE = MoveRule(_transpose)
PAD = MoveRule(_pad)
CONCAT = MoveRule(_concat)
TAKE = MoveRule(_take, repeats=True)
