"""Nearer counterexamples, where nodes' relaxations point to."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.options import Heuristic, SparseOptions
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.relaxation import Solved
from closegap.core.budget import Budget
from closegap.core.numerics import CELL_TOLERANCE, REPLAY_SLACK
from closegap.specs.distance import DistanceQuery

__all__ = ["Lookout"]

#: A cell's nearest point is asked to break the property by the replay's slack times these.
_OVERSHOOTS = (0.1, 1.0, 4.0, 16.0)
#: Between tries of the cell program that did not help, at most so many nodes.
_PATIENCE = 64


class Lookout:
    """Offers points to the incumbent.

    Args:
        options: the heuristic.
        query: whose counterexamples.
        incumbent: the best.
        budget: of the programs.
    """

    def __init__(
        self, options: SparseOptions, query: DistanceQuery, incumbent: Incumbent, budget: Budget
    ) -> None:
        self._options = options
        self._query = query
        self._incumbent = incumbent
        self._budget = budget
        self._idle, self._wait = 0, 1

    def glimpse(
        self, nodes: Nodes, row: int, difference: Float[np.ndarray, "D"], ranges: Ranges
    ) -> None:
        """Search a point's cell, now and then, where the point itself is a counterexample."""
        self._idle += 1
        if self._idle >= self._wait and nodes.ground.forward(difference)[1].min() < 0:
            self._settle(nodes, row, difference, ranges)

    def look(self, nodes: Nodes, row: int, solved: Solved, ranges: Ranges) -> None:
        """Look for a nearer counterexample where the relaxed image is."""
        if solved.difference is None or solved.above is None or solved.below is None:
            return
        gap = float(np.minimum(solved.above, solved.below).max(initial=0.0))
        if self._options.heuristic is Heuristic.CONSISTENT:
            if gap <= CELL_TOLERANCE:
                self._descend(nodes, row, solved.difference, ranges)
            return
        ground = nodes.ground
        margins = ground.forward(solved.difference)[1]
        broken = margins.min() < 0 and self._incumbent.offer(ground.image + solved.difference)
        self._idle += 1
        if broken or gap <= CELL_TOLERANCE or self._idle >= self._wait:
            self._settle(nodes, row, solved.difference, ranges)

    def _settle(
        self, nodes: Nodes, row: int, difference: Float[np.ndarray, "D"], ranges: Ranges
    ) -> None:
        self._idle = 0
        won = self._descend(nodes, row, difference, ranges)
        self._wait = 1 if won else min(2 * self._wait, _PATIENCE)

    def _descend(
        self, nodes: Nodes, row: int, difference: Float[np.ndarray, "D"], ranges: Ranges
    ) -> bool:
        """The nearest counterexample in a point's cell, if it is nearer than the best."""
        ground = nodes.ground
        values, margins = ground.forward(difference)
        on = np.where(ranges.free, values >= 0, ranges.low >= 0)
        slack = REPLAY_SLACK * (1 + float(np.abs(margins).max()))
        for overshoot in _OVERSHOOTS:
            if self._budget.expired:
                return False
            found = nodes.nearest(row, ranges, on, overshoot * slack)
            if found is None:
                return False
            point = ground.image + found
            if self._query.objective.value(ground.image, point) >= self._incumbent.distance:
                return False
            if self._incumbent.offer(point):
                return True
        return False
