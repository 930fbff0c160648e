"""Where the entries of a node come from, and what was done to each of them on the way.

Between two layers a network only moves entries around, scales and shifts them, and takes maxima.
A `Trail` follows every entry back to the layer's sums, so that none of this needs a rule of its
own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.graph import ops
from closegap.graph.network import Node

__all__ = ["Step", "Trail", "follow"]

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Step:
    """`z -> factor * z + offset`, entry by entry."""

    factor: Array
    offset: Array

    def moved(self, move: Callable[[NDArray[Any]], NDArray[Any]]) -> Step:
        """The step for entries that were moved."""
        return Step(move(self.factor), move(self.offset))


@dataclass(frozen=True, eq=False)
class Trail:
    """The entries of one node.

    Attributes:
        where: of the node's shape: index of each entry's source, -1 for padding.
        steps: what was done to each, in order.
        windows: after a maximum: for each source index now in `where`, the sums it is the
            greatest of, and what was done to them before.
    """

    where: NDArray[np.int64]
    steps: tuple[Step, ...] = ()
    windows: tuple[NDArray[np.int64], tuple[Step, ...]] | None = None

    def pooled(self) -> Trail:
        """After the maximum over the last axis."""
        width = self.where.shape[-1]
        shape = self.where.shape[:-1]
        before = tuple(step.moved(lambda a: a.reshape(-1, width)) for step in self.steps)
        rows = self.where.reshape(-1, width)
        return Trail(np.arange(len(rows)).reshape(shape), (), (rows, before))


def follow(trail: Trail, node: Node) -> Trail | None:
    """The trail behind a node that moves, scales or shifts; `None` for any other op."""
    op = node.op
    if isinstance(op, ops.Scale | ops.Shift):
        return replace(trail, steps=(*trail.steps, _step(op, node.shape)))
    if isinstance(op, ops.Pad):
        return None if trail.steps else replace(trail, where=_padded(trail.where, op.pads))
    move = _move(op, node.shape)
    if move is None:
        return None
    steps = tuple(step.moved(move) for step in trail.steps)
    return replace(trail, where=move(trail.where), steps=steps)


def _padded(where: NDArray[np.int64], pads: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    return np.pad(where, pads, constant_values=-1)


def _step(op: ops.Scale | ops.Shift, shape: tuple[int, ...]) -> Step:
    if isinstance(op, ops.Scale):
        return Step(np.broadcast_to(op.factor, shape), np.zeros(shape))
    return Step(np.ones(shape), np.broadcast_to(op.offset, shape))


def _move(op: ops.Op, shape: tuple[int, ...]) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    if isinstance(op, ops.Transpose):
        perm = op.perm
        return lambda entries: np.transpose(entries, perm)
    if isinstance(op, ops.Reshape):
        return lambda entries: entries.reshape(shape)
    if isinstance(op, ops.Take):
        indices = op.indices
        return lambda entries: entries.reshape(-1)[indices]
    return None
