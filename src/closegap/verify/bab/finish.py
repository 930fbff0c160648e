"""What linear programs finish: leaves, and subdomains with few open units where that pays."""

from __future__ import annotations

import time

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.search.tree import Tree
from closegap.verify.bab.clipping import leaf_walls
from closegap.verify.bab.domains import DomainBatch, DomainResult
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.outcome import Offer
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.small import SmallPrograms, SmallWorth

__all__ = ["Finisher"]

#: The newest nodes say what a split gains.
_NEWEST = 256


class Finisher:
    """Closes nodes of one tree by programs.

    Args:
        problem: roots, units, bounds.
        offer: judges candidates.
        small: of the same problem; none by default.
    """

    def __init__(
        self, problem: SplitProblem, offer: Offer, small: SmallPrograms | None = None
    ) -> None:
        self._problem, self._offer, self._small = problem, offer, small
        self._leaves = LeafPrograms(problem)
        self._worth = SmallWorth()

    def decide(
        self,
        tree: Tree,
        nodes: Int[np.ndarray, "B"],
        batch: DomainBatch,
        result: DomainResult,
        budget: Budget,
    ) -> bool:
        """Linear programs on leaves: close, or offer their points; ties are given up.

        A leaf that the budget leaves no time for stays open.

        Returns:
            True iff a candidate was accepted.
        """
        if not len(nodes):
            return False
        found = self._leaves.solve(batch.root, leaf_walls(batch, result, self._problem), budget)
        tree.raise_lower(nodes, found.lower)
        proved = found.lower > 0
        tree.close(nodes[proved])
        broken = bool(len(found.points)) and self._offer(found.points)
        tree.give_up(nodes[found.tried & ~proved])
        return broken

    def close_small(
        self,
        tree: Tree,
        nodes: Int[np.ndarray, "B"],
        batch: DomainBatch,
        result: DomainResult,
        budget: Budget,
        each: float,
    ) -> bool:
        """Try open nodes with few open units, where programs are expected to be faster.

        Under a node limit none is tried, for what pays is measured by the clock.

        Args:
            each: seconds that bounding a subdomain takes.

        Returns:
            True iff a candidate was accepted.
        """
        small = self._small
        if small is None or not small.options.units or budget.nodes is not None:
            return False
        open_ = np.asarray(((result.unit_lower < 0) & (result.unit_upper > 0)).sum(dim=1).numpy())
        few = np.flatnonzero((open_ > 0) & (open_ <= small.options.units))
        if not len(few):
            return False
        gain = tree.recent_gain(_NEWEST)
        wanted = self._worth.wanted(-tree.lower(nodes[few]), open_[few], gain, each, len(tree))
        points: list[NDArray[np.float64]] = []
        for place in few[wanted]:
            if budget.expired:
                break
            began = time.thread_time()
            root, units, signs = batch.root[place], batch.units[place], batch.signs[place]
            closed, found = small.close(int(root), units, signs, budget)
            self._worth.learn(time.thread_time() - began, closed)
            points += found[-1:]
            if closed:
                tree.close(nodes[place : place + 1])
        shape = self._problem.input_shape
        return bool(points) and self._offer(np.stack(points).reshape(-1, *shape))
