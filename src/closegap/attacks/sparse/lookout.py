"""Nearer counterexamples, where nodes' relaxations point to."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from closegap.attacks.sparse.ground import Ground
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
#: Of many points, those that break the property most are drawn in, by so many halvings.
_DRAWN, _HALVINGS = 8, 8


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

    def survey(
        self,
        nodes: Nodes,
        rows: Int[np.ndarray, "B"],
        points: Float[np.ndarray, "B D"],
        ranges: Ranges,
    ) -> None:
        """Look where the planes of many nodes are least, as differences from the image.

        Those that are counterexamples are drawn in towards the image; the nearest is offered, and
        its cell searched if it is nearer than the best, and now and then if it is not.
        """
        self._idle += 1
        if self._options.heuristic is Heuristic.CONSISTENT:
            return
        ground, objective = nodes.ground, self._query.objective
        margins = ground.forward(points)[1].min(axis=1, initial=0.0)
        broken = np.argsort(margins, kind="stable")[:_DRAWN]
        broken = broken[margins[broken] < 0]
        if not len(broken):
            return
        drawn = points[broken] if objective.integral else _drawn_in(ground, points[broken])
        distances = objective.value(ground.image, ground.image + drawn)
        best = int(distances.argmin())
        nearer = distances[best] < self._incumbent.distance
        won = nearer and self._incumbent.offer(ground.image + drawn[best])
        if won or self._idle >= self._wait:
            at = int(broken[best])
            self._settle(nodes, int(rows[at]), points[at], ranges.select(at))

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
        short = difference
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
                self._draw_in(ground.image + short, point)
                return True
            short = found
        return False

    def _draw_in(self, short: Float[np.ndarray, "D"], found: Float[np.ndarray, "D"]) -> None:
        """Halve the way from a counterexample to a point of its cell that was none, or not asked.

        By so much was the program's margin pushed too far below zero.
        """
        objective, image = self._query.objective, self._query.center
        tolerance = self._options.tolerance
        for _ in range(_HALVINGS):
            best, ahead = self._incumbent.distance, float(objective.value(image, short))
            if not ahead < best or tolerance.closes(ahead, best):
                return
            middle = (short + found) / 2
            if self._incumbent.offer(middle):
                found = middle
            else:
                short = middle


def _drawn_in(ground: Ground, points: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B D"]:
    """The points between counterexamples and the image where, by halving, these begin."""
    near, far = np.zeros(len(points)), np.ones(len(points))
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        broken = ground.forward(middle[:, None] * points)[1].min(axis=1, initial=0.0) < 0
        near, far = np.where(broken, near, middle), np.where(broken, middle, far)
    return np.asarray(far[:, None] * points)
