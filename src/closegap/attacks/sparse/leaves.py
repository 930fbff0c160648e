"""The leaves of a tree of least distances: their bounds, the ranges of their units, and slopes.

A leaf is closed only by a proved bound. What all of them prove together is the least of their
bounds, of those that closed leaves had, and of the distance from which on inputs do not count.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.sparse.ascent import Slopes
from closegap.attacks.sparse.ground import Ground
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import SparseOptions
from closegap.attacks.sparse.planes import Ranges
from closegap.search.tree import Tree
from closegap.specs.distance import DistanceQuery

__all__ = ["Leaves"]


class Leaves:
    """Of all targets' trees, a root each, under one best distance.

    Args:
        options: the tolerance, and the distance within which the tree is.
        query: on a network of ReLUs and leaky ReLUs.
        incumbent: the best, and told what is proved.

    Attributes:
        tree: bounds, and who descends from whom.
        ranges: of every open node's units.
        slopes: where an open node's ascent may start.
        least: what the leaves prove together.
    """

    def __init__(self, options: SparseOptions, query: DistanceQuery, incumbent: Incumbent) -> None:
        self.tree = Tree()
        self.ranges: dict[int, Ranges] = {}
        self.slopes: dict[int, Slopes] = {}
        self._options = options
        self._integral = query.objective.integral
        self._incumbent = incumbent
        self._closed = math.inf
        #: No input of the box is as far as this.
        self._beyond = math.nextafter(query.farthest, math.inf)
        size = query.image.size
        zero, one = np.zeros((1, size)), np.ones(size)
        floor = query.objective.least(query.center, zero, np.zeros(1), 0 * one, one)
        self.least = float(floor[0])

    @property
    def cutoff(self) -> float:
        """A node with a bound this high holds nothing that is nearer by more than the tolerance."""
        if self._integral:
            return self.limit - 0.5
        if self._options.within < self._incumbent.distance:
            return self._options.within
        best = self._incumbent.distance
        return min(best - self._options.tolerance.width(best), self._beyond)

    @property
    def limit(self) -> float:
        """Inputs from this distance on do not count."""
        return min(self._incumbent.distance, self._options.within)

    @property
    def all_closed(self) -> bool:
        """Whether no node is left: no counterexample is nearer than the limit."""
        accounting = self.tree.accounting()
        return accounting.roots > 0 and accounting.open + accounting.stuck == 0

    def row(self, node: int) -> int:
        """The target of a node."""
        return int(self.tree.root(np.array([node]))[0])

    def plant(self, count: int, whole: Ranges) -> NDArray[np.int64]:
        """A root for each target, which knows what is proved already."""
        roots = self.tree.add_roots(np.full(count, self._incumbent.lower))
        self.ranges = {int(root): whole for root in roots}
        return roots

    def bounded(self, node: int, lower: float) -> bool:
        """Raise a node's bound; True where that closes it."""
        at = np.array([node])
        if self._integral:
            lower = float(np.ceil(lower))
        self.tree.raise_lower(at, np.array([lower]))
        bound = float(self.tree.lower(at)[0])
        if bound < self.cutoff:
            return False
        self._closed = min(self._closed, bound)
        self.tree.close(at)
        self.forget(node)
        return True

    def forget(self, node: int) -> None:
        """What is known of a node that is a leaf no more, or stuck."""
        self.ranges.pop(node, None)
        self.slopes.pop(node, None)

    def move(self, old: Ground, new: Ground, whole: Ranges) -> None:
        """Open nodes' ranges on a new ground; those it excludes are closed."""
        self.slopes.clear()
        for node, ranges in list(self.ranges.items()):
            known = new.known.copy()
            known[0, old.place] = np.maximum(known[0, old.place], ranges.low)
            known[1, old.place] = np.minimum(known[1, old.place], ranges.high)
            ranges = Ranges(known[0, new.place], known[1, new.place]).within(whole)
            self.ranges[node] = ranges
            if ranges.empty or (known[0] > known[1]).any():
                self.bounded(node, new.limit)

    def settle(self) -> None:
        """Tell what the leaves prove together."""
        left = self.tree.least_lower()
        self.least = min(float(left.min(initial=math.inf)), self._closed, self.limit)
        self._incumbent.prove(self.least)
