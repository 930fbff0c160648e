"""Open nodes in waves: bounded together by ascent on slopes, then split."""

from __future__ import annotations

import numpy as np

from closegap.attacks.sparse.leaves import Leaves
from closegap.attacks.sparse.lookout import Lookout
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.options import SparseOptions
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.wave import Front, Limits, bounded_front, started
from closegap.core.stopwatch import Stopwatch

__all__ = ["Waves"]


class Waves:
    """Bounds many nodes of a tree at a time.

    Args:
        options: the parts.
        leaves: of the tree.
        lookout: for nearer counterexamples.
        watch: told where the time goes.

    Attributes:
        left: nodes without an open phase, which are left to programs.
    """

    def __init__(
        self, options: SparseOptions, leaves: Leaves, lookout: Lookout, watch: Stopwatch
    ) -> None:
        self._options = options
        self._leaves = leaves
        self._lookout = lookout
        self._watch = watch
        self.left: set[int] = set()

    def advance(self, nodes: Nodes) -> None:
        """Bound the open nodes with the least bounds together; close, split, or leave each."""
        leaves = self._leaves
        open_ = leaves.tree.open_nodes()
        order = np.argsort(leaves.tree.lower(open_), kind="stable")
        front = [n for n in open_[order[: self._options.batch]].tolist() if n not in self.left]
        with self._watch.part("ascent"):
            rows = leaves.tree.root(np.array(front))
            held = [leaves.ranges[node] for node in front]
            ranges = Ranges(np.stack([r.low for r in held]), np.stack([r.high for r in held]))
            start = started(nodes, ranges, [leaves.slopes.get(node) for node in front])
            seen = bounded_front(nodes, rows, ranges, start, self._limits(front))
        split = []
        for at, node in enumerate(front):
            if leaves.bounded(node, float(seen.lower[at])):
                continue
            leaves.ranges[node] = seen.ranges.select(at)
            if seen.units[at] < 0:
                self.left.add(node)
            else:
                split.append(at)
        if not split:
            return
        first = split[0]
        with self._watch.part("candidates"):
            point = seen.climbed.points[first]
            self._lookout.glimpse(nodes, int(rows[first]), point, leaves.ranges[front[first]])
        self._split(nodes, front, split, seen)

    def _split(self, nodes: Nodes, front: list[int], split: list[int], seen: Front) -> None:
        """Two children of some of the nodes."""
        leaves, parents, units = self._leaves, np.array(front)[split], seen.units[split]
        children = leaves.tree.split(parents, nodes.ground.place[units])
        for child, at, sign in zip(
            children.tolist(), split * 2, np.repeat((1, -1), len(split)).tolist(), strict=True
        ):
            parent = leaves.ranges[front[at]]
            leaves.ranges[child] = parent.split(int(seen.units[at]), sign)
            leaves.slopes[child] = seen.climbed.slopes.one(at)
        for node in parents.tolist():
            leaves.forget(node)

    def _limits(self, front: list[int]) -> Limits:
        """How long to bound nodes."""
        lower, cutoff = self._leaves.tree.lower(np.array(front)), self._leaves.cutoff
        return Limits(self._options.steps, cutoff, lower >= self._options.rebound * cutoff)
