"""The loop: pick open domains, split them, bound the children, close what is proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.search.slots import SlotStore
from closegap.search.tree import Accounting, Tree
from closegap.verify.bab.bounder import DomainBatch, DomainBounder, DomainResult
from closegap.verify.bab.branching import FilteredBranching
from closegap.verify.bab.problem import SplitProblem

__all__ = ["BranchAndBound", "BranchOptions", "BranchOutcome", "Offer"]

#: Judges candidates `[M, *input shape]`; True stops the search.
Offer = Callable[[NDArray[np.float64]], bool]


@dataclass(frozen=True)
class BranchOptions:
    """How to search.

    Attributes:
        batch: domains split at a time; the children are twice as many.
        root: climbing on the roots.
        children: climbing on every other domain.
        branching: which unit to split.
        offered: candidates offered from each batch, the lowest first.
        nodes: at most so many domains, or `None`.
    """

    batch: int = 64
    root: AscentOptions = field(default_factory=lambda: AscentOptions(iterations=60))
    children: AscentOptions = field(
        default_factory=lambda: AscentOptions(
            iterations=20, slope_rate=0.1, split_rate=0.3, decay=0.95, patience=6
        )
    )
    branching: FilteredBranching = field(default_factory=FilteredBranching)
    offered: int = 8
    nodes: int | None = None


@dataclass(frozen=True, eq=False)
class BranchOutcome:
    """What the search proved.

    Attributes:
        lower: proved lower bound of each root's clause, `[roots]`; infinity when every leaf of it
            is closed (the margin is positive; how large was not asked).
        accounting: where every domain went.
        finished: nothing is open any more.
        broken: a candidate was accepted.
    """

    lower: NDArray[np.float64]
    accounting: Accounting
    finished: bool
    broken: bool


class BranchAndBound:
    """One search over one problem.

    Args:
        problem: roots, units, bounds.
        options: how to search.
        offer: judges candidates.
    """

    def __init__(self, problem: SplitProblem, options: BranchOptions, offer: Offer) -> None:
        self._problem = problem
        self._options = options
        self._offer = offer
        self._tree = Tree()
        self._bounder = DomainBounder(problem, options.children)
        self._broken = False

    def run(self, budget: Budget) -> BranchOutcome:
        """Search until nothing is open, a candidate is accepted, or the budget ends."""
        roots = len(self._problem.rows)
        self._store = SlotStore(
            self._bounder.width + 2 * self._options.branching.count, budget.memory // 2
        )
        nodes = self._tree.add_roots(np.full(roots, -np.inf))
        rooted = DomainBounder(self._problem, self._options.root)
        self._visit(nodes, rooted, budget)
        while not (self._broken or budget.expired or self._full()):
            picked = self._pick()
            if not len(picked):
                break
            self._visit(self._expand(picked), self._bounder, budget)
        accounting = self._tree.accounting()
        return BranchOutcome(
            lower=self._tree.least_lower(),
            accounting=accounting,
            finished=accounting.open == 0 and accounting.stuck == 0 and accounting.balanced,
            broken=self._broken,
        )

    def _full(self) -> bool:
        return self._options.nodes is not None and len(self._tree) >= self._options.nodes

    def _pick(self) -> Int[np.ndarray, "B"]:
        """The open domains with the least bounds."""
        open_ = self._tree.open_nodes()
        count = self._options.batch
        if len(open_) <= count:
            return open_
        lower = self._tree.lower(open_)
        return np.asarray(open_[np.argpartition(lower, count)[:count]])

    def _expand(self, nodes: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """Split each node, at several units while there are few nodes; returns the leaves."""
        payload, found = self._store.take(nodes)
        width = self._bounder.width
        ranked = payload[:, width:].astype(np.int64) - 1
        warm = payload[:, :width]
        levels = max(1, int(np.log2(max(1, self._options.batch / len(nodes)))))
        levels = min(levels, ranked.shape[1])
        owner = np.arange(len(nodes))
        leaves = nodes
        for level in range(levels):
            units = ranked[owner, level]
            can = units >= 0
            if not can.any():
                break
            children = self._tree.split(leaves[can], units[can])
            leaves = np.concatenate([leaves[~can], children])
            owner = np.concatenate([owner[~can], owner[can], owner[can]])
        self._warm = warm[owner] * found[owner][:, None]
        self._has_warm = bool(found.any())
        return leaves

    def _visit(self, nodes: Int[np.ndarray, "B"], bounder: DomainBounder, budget: Budget) -> None:
        """Bound nodes, close the proved ones, prepare the others for splitting."""
        units, signs = self._tree.paths(nodes)
        first = bounder is not self._bounder
        payload = None if first or not self._has_warm else self._warm
        batch = DomainBatch(self._tree.root(nodes), units, signs, payload)
        result = bounder.bound(batch, budget)
        self._tree.raise_lower(nodes, result.lower)
        lower = self._tree.lower(nodes)
        proved = lower > 0
        self._tree.close(nodes[proved])
        left = np.flatnonzero(~proved)
        if not len(left):
            return
        order = left[np.argsort(lower[left])][: self._options.offered]
        self._broken = self._offer(result.candidates[order])
        if self._broken:
            return
        self._prepare(nodes[left], _part(batch, result, left), _select(result, left))

    def _prepare(
        self, nodes: Int[np.ndarray, "B"], batch: DomainBatch, result: DomainResult
    ) -> None:
        """Rank the units to split next, and keep them with the warm start."""
        problem, branching = self._problem, self._options.branching
        if not problem.units:
            self._tree.give_up(nodes)
            return
        ranked = branching.rank(problem, self._bounder, batch, result)
        stuck = (ranked < 0).all(axis=1)
        self._tree.give_up(nodes[stuck])
        keep = ~stuck
        wide = np.full((int(keep.sum()), 2 * branching.count), -1)
        wide[:, : ranked.shape[1]] = ranked[keep]
        payload = np.concatenate([result.payload[keep], wide + 1], axis=1)
        self._store.put(nodes[keep], payload)


def _part(batch: DomainBatch, result: DomainResult, rows: NDArray[np.int64]) -> DomainBatch:
    return DomainBatch(batch.root[rows], batch.units[rows], batch.signs[rows], result.payload[rows])


def _select(result: DomainResult, rows: NDArray[np.int64]) -> DomainResult:
    return DomainResult(
        lower=result.lower[rows],
        incoming=result.incoming[rows],
        unit_lower=result.unit_lower[rows] if len(result.unit_lower) > 1 else result.unit_lower,
        unit_upper=result.unit_upper[rows] if len(result.unit_upper) > 1 else result.unit_upper,
        candidates=result.candidates[rows],
        payload=result.payload[rows],
    )
