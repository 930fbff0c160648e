"""Branch and bound over the signs of the first layer.

A node gives some of them and belongs to one clause. It is closed when its clause's lower bound is
positive or when no input has its signs; where all signs are given and neither was shown, a
certified linear program decides. Both halves of a split cover their node: every input gives the
unit one of its two signs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.graph.binarized.first_layer import fixed_signs, sum_bounds
from closegap.graph.binarized.forward import BinarizedForward
from closegap.specs.query import Query
from closegap.specs.region import bounding_box
from closegap.verify.binarized.cells import CellPrograms, half_spaces
from closegap.verify.binarized.relaxation import SignRelaxation

__all__ = ["SignSearch"]

#: Nodes bounded together.
_BATCH = 256


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Open nodes.

    Attributes:
        signs: of the first layer; 0 for either.
        clause: which they belong to.
        lower: bounds of its margin.
        knobs: their parents' (`NodeBounds.knobs`); `None` at the root.
    """

    signs: Int[np.ndarray, "B U"]
    clause: Int[np.ndarray, "B"]
    lower: Float[np.ndarray, "B"]
    knobs: Float[np.ndarray, "B knobs"] | None

    def __len__(self) -> int:
        return len(self.clause)

    @property
    def rooted(self) -> bool:
        """Whether they have no parents."""
        return self.knobs is None

    def at(self, which: NDArray[np.int64] | NDArray[np.bool_] | slice) -> _Nodes:
        """Some of them."""
        knobs = None if self.knobs is None else self.knobs[which]
        return _Nodes(self.signs[which], self.clause[which], self.lower[which], knobs)


def _joined(parts: list[_Nodes]) -> _Nodes:
    knobs = [part.knobs for part in parts if part.knobs is not None]
    return _Nodes(
        np.concatenate([part.signs for part in parts]),
        np.concatenate([part.clause for part in parts]),
        np.concatenate([part.lower for part in parts]),
        np.concatenate(knobs) if knobs else None,
    )


class SignSearch:
    """A tree for each clause that is open; all of them in one batch.

    Args:
        query: what to decide; the first layer of its network pools nothing.
        forward: the network in exact form.
        clauses: which to prove.
        offer: told of inputs on the way; True ends the search.

    Attributes:
        nodes: how many were bounded.
        programs: how many linear programs were solved.
        stuck: nodes that nothing is left to do with, and that are not proved.
    """

    def __init__(
        self,
        query: Query,
        forward: BinarizedForward,
        clauses: Int[np.ndarray, "open"],
        offer: Callable[[NDArray[np.float64]], bool],
    ) -> None:
        self._query, self._forward, self._offer = query, forward, offer
        box = bounding_box(query.region)
        ends = box.lower.reshape(-1).astype(np.float64), box.upper.reshape(-1).astype(np.float64)
        first = forward.network.first
        bounds = sum_bounds(first, *ends)
        root = fixed_signs(first, bounds).astype(np.int64)
        spaces = half_spaces(first, bounds, ends, np.flatnonzero(root == 0))
        self._free = spaces.free
        self.relaxation = SignRelaxation(forward.network, query.prop, spaces)
        self._cells = CellPrograms(spaces)
        count = len(clauses)
        self._waiting = [
            _Nodes(
                np.repeat(root[None], count, axis=0),
                np.asarray(clauses),
                np.full(count, -np.inf),
                None,
            )
        ]
        self._closed = np.full(query.prop.clauses, -np.inf)  # others are not proved here
        self._closed[clauses] = np.inf
        self.nodes, self.programs, self.stuck = 0, 0, 0

    def lower(self, clause: int) -> float:
        """Proved lower bound of a clause's margin, over closed and open nodes."""
        parts = [part.lower[part.clause == clause] for part in self._waiting]
        return min([float(self._closed[clause]), *(float(p.min(initial=np.inf)) for p in parts)])

    def run(self, budget: Budget) -> None:
        """Search depth first until the trees are closed, an input is accepted or time is up."""
        most = np.inf if budget.nodes is None else budget.nodes
        while self._waiting and not budget.expired and self.nodes < most:
            nodes = self._taken()
            if self._step(nodes, budget):
                return

    def _taken(self) -> _Nodes:
        """The nodes waiting last, one batch at most."""
        parts = [self._waiting.pop()]
        while self._waiting and self._waiting[-1].rooted == parts[0].rooted:
            if sum(map(len, parts)) >= _BATCH:
                break
            parts.insert(0, self._waiting.pop())
        nodes = _joined(parts)
        if len(nodes) > _BATCH:
            self._waiting.append(nodes.at(slice(0, len(nodes) - _BATCH)))
        return nodes.at(slice(-_BATCH, None))

    def _step(self, nodes: _Nodes, budget: Budget) -> bool:
        """Bound, close, split. True iff an input was accepted."""
        found = self.relaxation.bound(nodes.signs, nodes.clause, nodes.knobs)
        self.nodes += len(nodes)
        lower = np.fmax(found.lower, nodes.lower)
        closed = lower > 0
        np.minimum.at(self._closed, nodes.clause[closed], lower[closed])
        if self._offered(found.points[~closed], nodes.signs[~closed]):
            self._waiting.append(nodes)
            return True
        left = _Nodes(nodes.signs, nodes.clause, lower, found.knobs).at(~closed)
        gaps = found.gaps[~closed]
        whole = ~(left.signs == 0).any(axis=1)
        for row in np.flatnonzero(whole):
            if self._leaf(left.at(slice(row, row + 1)), budget):
                self._waiting.append(nodes)
                return True
        self._split(left.at(~whole), gaps[~whole])
        return False

    def _offered(self, points: NDArray[np.float64], signs: NDArray[np.int64]) -> bool:
        """Offer the inputs that break the property, were it not for rounding."""
        if not len(points):
            return False
        bits = signs > 0
        bits[:, self._free] = self.relaxation.signs_at(points)
        prop = self._query.prop
        margins = prop.margins(self._forward.outputs(bits))
        worst = np.argsort(margins, kind="stable")[:1]
        return any(bool(margins[k] <= 0) and self._offer(points[k]) for k in worst)

    def _leaf(self, node: _Nodes, budget: Budget) -> bool:
        """All signs are given, and break the clause: does an input have them?"""
        self.programs += 1
        signs = node.signs[0, self._free]
        core, point = self._cells.ask(signs, budget.remaining)
        if core is not None:
            return False
        if point is not None and (self._offer(point) or self._clear(signs, budget)):
            return True
        self.stuck += 1
        np.minimum.at(self._closed, node.clause, node.lower)
        return False

    def _clear(self, signs: Int[np.ndarray, "free"], budget: Budget) -> bool:
        return any(map(self._offer, self._cells.clear_points(signs, budget.remaining)))

    def _split(self, nodes: _Nodes, gaps: NDArray[np.float64]) -> None:
        if not len(nodes):
            return
        unit = self._free[gaps.argmax(axis=1)]
        count = len(nodes)
        both = nodes.at(np.tile(np.arange(count), 2))
        both.signs[np.arange(2 * count), np.tile(unit, 2)] = np.repeat([-1, 1], count)
        self._waiting.append(both.at(np.argsort(-both.lower, kind="stable")))
