"""How large an affine op is, as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from closegap.graph import ops
from closegap.graph.network import Node

__all__ = ["affine_entries"]


def affine_entries(node: Node, parents: Sequence[Node]) -> int:
    """How many entries the op's matrices can have, without building them."""
    op = node.op
    if isinstance(op, ops.Linear):
        return node.size * int(op.weight.shape[1])
    if isinstance(op, ops.Conv):
        return node.size * prod(op.weight.shape[1:])
    if isinstance(op, ops.ConvTranspose):
        return node.size * int(op.weight.shape[0]) // op.groups * prod(op.weight.shape[2:])
    return max(node.size * len(parents), sum(p.size for p in parents))
