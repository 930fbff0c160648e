"""Open nodes in waves: bounded together by ascent on slopes, then split."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.choice import Gains
from closegap.attacks.sparse.leaves import Leaves
from closegap.attacks.sparse.lookout import Lookout
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.options import Branching, Order, SparseOptions
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
        self._gains: Gains | None = None
        self.left: set[int] = set()

    def advance(self, nodes: Nodes) -> None:
        """Bound some of the open nodes together; close, split, or leave each."""
        leaves, front = self._leaves, self._front()
        with self._watch.part("ascent"):
            rows = leaves.tree.root(np.array(front))
            held = [leaves.ranges[node] for node in front]
            ranges = Ranges(np.stack([r.low for r in held]), np.stack([r.high for r in held]))
            start = started(nodes, ranges, [leaves.slopes.get(node) for node in front])
            seen = bounded_front(nodes, rows, ranges, start, self._limits(front))
        self._learn(front, seen.lower)
        left = np.flatnonzero([
            not leaves.bounded(node, bound) for node, bound in zip(
                front, seen.lower.tolist(), strict=True)])  # fmt: skip
        with self._watch.part("candidates"):
            self._lookout.survey(nodes, rows[left], seen.climbed.points[left],
                                 seen.ranges.select(left))  # fmt: skip
        for at in left.tolist():
            leaves.ranges[front[at]] = seen.ranges.select(at)
        free = seen.ranges.free[left].any(axis=1)
        self.left.update(front[at] for at in left[~free].tolist())
        if free.any():
            self._split(nodes, front, left[free], seen)

    def _front(self) -> list[int]:
        """The nodes that come next: the newest, those of the least bounds, or both."""
        leaves, order = self._leaves, self._options.order
        open_ = leaves.tree.open_nodes()
        batch = self._options.batch
        new = {Order.DEPTH: batch, Order.PLUNGE: batch // 2, Order.BEST: 0}[order]
        newest, rest = open_[len(open_) - min(new, len(open_)) :], open_[: max(0, len(open_) - new)]
        least = rest[np.argsort(leaves.tree.lower(rest), kind="stable")[: batch - len(newest)]]
        return [n for n in np.concatenate([least, newest]).tolist() if n not in self.left]

    def _split(self, nodes: Nodes, front: list[int], split: NDArray[np.int64], seen: Front) -> None:
        """Two children of some of the nodes."""
        leaves, parents = self._leaves, np.array(front)[split]
        units = self._units(nodes, seen, split)
        place, guess = nodes.ground.place[units], seen.given[split, units]
        children = leaves.tree.split(parents, place)
        signs = np.repeat((1, -1), len(split)).tolist()
        for child, at, unit, sign in zip(
            children.tolist(), split.tolist() * 2, units.tolist() * 2, signs, strict=True
        ):
            leaves.ranges[child] = leaves.ranges[front[at]].split(unit, sign)
            leaves.slopes[child] = seen.climbed.slopes.one(at)
        for node in parents.tolist():
            leaves.forget(node)
        if self._gains is not None:
            self._gains.expect(children, np.tile(place, 2), np.tile(guess, 2))

    def _units(self, nodes: Nodes, seen: Front, split: NDArray[np.int64]) -> Int[np.ndarray, "S"]:
        """Which unit of each node to split."""
        given, free = seen.given[split], seen.ranges.free[split]
        scores = given
        if self._options.branching is Branching.LARGEST:
            scores = np.maximum(nodes.ground.forward(seen.climbed.points[split])[0], 0.0)
        elif self._options.branching is Branching.GAINS:
            if self._gains is None:
                self._gains = Gains(nodes.ground.known.shape[1])
            scores = self._gains.scores(nodes.ground.place, given)
        return np.asarray(np.where(free, scores, -1.0).argmax(axis=1))

    def _learn(self, front: list[int], lower: Float[np.ndarray, "B"]) -> None:
        """By how much splits raised bounds, up to where nodes close."""
        if self._gains is not None:
            leaves = self._leaves
            at = np.array(front)
            gain = np.minimum(lower, leaves.cutoff) - leaves.tree.lower(at)
            self._gains.learn(at, leaves.tree.signs(at), gain)

    def _limits(self, front: list[int]) -> Limits:
        """How long to bound nodes."""
        lower, cutoff = self._leaves.tree.lower(np.array(front)), self._leaves.cutoff
        again = lower >= self._options.rebound * cutoff
        return Limits(self._options.steps, cutoff, again)
