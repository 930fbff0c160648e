"""Branch and bound over the signs of the first layer.

A node fixes some of them. Exact integer intervals follow the signs to the last layer, where the
clauses' margins are bounded with their rounding subtracted; a linear program asks whether the fixed
signs occur together at all. Both children of a split cover their node: every input gives the unit
one of its two signs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.numerics import gamma
from closegap.graph.binarized.first_layer import fixed_signs, sum_bounds
from closegap.graph.binarized.intervals import interval_layer
from closegap.graph.binarized.records import BinarizedNetwork
from closegap.specs.query import Query
from closegap.specs.region import bounding_box
from closegap.verify.binarized.cells import CellPrograms

__all__ = ["SignSearch"]

#: Units whose split is tried before one is chosen.
_TRIED = 48
#: What a sign that a split fixes counts beside what the split wins of the bound.
_FIXED_WORTH = 0.01


@dataclass(frozen=True, eq=False)
class _Node:
    """Signs of the first layer (0: either) and the clauses' lower bounds."""

    signs: NDArray[np.int64]
    lower: NDArray[np.float64]


class SignSearch:
    """One tree for all clauses that are open.

    Args:
        query: what to decide; the first layer of its network pools nothing.
        network: in exact form.
        clauses: which to prove.
        offer: told of inputs on the way; True ends the search.

    Attributes:
        nodes: how many were bounded.
        stuck: nodes that nothing is left to do with, and that are not proved.
    """

    def __init__(
        self,
        query: Query,
        network: BinarizedNetwork,
        clauses: Int[np.ndarray, "open"],
        offer: Callable[[NDArray[np.float64]], bool],
    ) -> None:
        self._query, self._network, self._clauses, self._offer = query, network, clauses, offer
        box = bounding_box(query.region)
        low, high = box.lower.reshape(-1), box.upper.reshape(-1)
        bounds = sum_bounds(network.first, low, high)
        self._layers = [interval_layer(layer) for layer in network.hidden]
        root = fixed_signs(network.first, bounds).astype(np.int64)
        self._free = np.flatnonzero(root == 0)
        self._cells = CellPrograms(network.first, bounds, low, high, self._free)
        self._waiting = [_Node(root, self.lower_bounds(root[None])[0][0])]
        self._closed = np.inf
        self.nodes, self.stuck = 1, 0

    @property
    def lower(self) -> float:
        """Proved lower bound of the least margin of the clauses, over closed and open nodes."""
        waiting = [float(node.lower.min()) for node in self._waiting]
        stuck = -np.inf if self.stuck else np.inf
        return min([self._closed, stuck, *waiting])

    def run(self, budget: Budget) -> None:
        """Search depth first until the tree is closed, an input is accepted or the budget ends."""
        most = np.inf if budget.nodes is None else budget.nodes
        while self._waiting and not budget.expired and self.nodes < most and not self.stuck:
            node = self._waiting.pop()
            if (node.lower > 0).all():
                self._closed = min(self._closed, float(node.lower.min()))
                continue
            empty, point = self._cells.ask(node.signs[self._free], budget.remaining)
            if empty:
                continue
            if point is not None and self._offer(point):
                self._waiting.append(node)
                return
            self._branch(node)

    def _branch(self, node: _Node) -> None:
        free = np.flatnonzero(node.signs == 0)
        if not len(free):
            self.stuck += 1
            return
        children = self._children(node, free)
        self.nodes += 2
        self._waiting.extend(sorted(children, key=lambda child: float(child.lower.min())))

    def _children(self, node: _Node, free: NDArray[np.int64]) -> list[_Node]:
        """The two halves of the split that wins most, by bounds and by signs that it fixes."""
        tried = free[np.linspace(0, len(free) - 1, min(_TRIED, len(free))).astype(np.int64)]
        halves = np.repeat(node.signs[None], 2 * len(tried), axis=0)
        halves[np.arange(2 * len(tried)), np.repeat(tried, 2)] = np.tile([1, -1], len(tried))
        lower, fixed = self.lower_bounds(halves)
        score = (lower.min(axis=1) + _FIXED_WORTH * fixed).reshape(-1, 2)
        best = 2 * int((score.min(axis=1) + score.mean(axis=1)).argmax())
        low = np.maximum(lower, node.lower)
        return [_Node(halves[k], low[k]) for k in (best, best + 1)]

    def lower_bounds(
        self, signs: Int[np.ndarray, "B U"]
    ) -> tuple[Float[np.ndarray, "B open"], Int[np.ndarray, "B"]]:
        """Lower bounds of the clauses' margins, and how many later signs are fixed."""
        fixed = np.zeros(len(signs), dtype=np.int64)
        for layer in self._layers:
            signs = layer.signs(signs)
            fixed += np.count_nonzero(signs, axis=1)
        last, prop = self._network.last, self._query.prop
        slope = (prop.rows * last.factor) @ last.weight
        added = prop.rows @ (last.factor * last.bias + last.offset) + prop.offsets
        values = signs @ slope.T - (signs == 0) @ np.abs(slope).T + added
        sizes = np.abs(prop.rows * last.factor) @ np.abs(last.weight).sum(axis=1)
        sizes += np.abs(prop.rows) @ (np.abs(last.factor * last.bias) + np.abs(last.offset))
        sizes += np.abs(prop.offsets)
        terms = prop.rows.shape[1] + slope.shape[1] + 8
        margins = values - gamma(4 * terms) * sizes
        return prop.clause_values(margins)[:, self._clauses], fixed
