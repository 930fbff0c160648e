"""The loop: pick open domains, split them, bound the children, close what is proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.bounds.optimise import AscentOptions
from closegap.branching.options import BranchingOptions
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.search.slots import SlotStore
from closegap.search.tree import Accounting, Tree
from closegap.verify.bab.bounder import DomainBatch, DomainBounder, DomainResult, unit_walls
from closegap.verify.bab.branching import Brancher
from closegap.verify.bab.costs import measured_costs
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.pace import Pace
from closegap.verify.bab.problem import SplitProblem

__all__ = ["BranchAndBound", "BranchOptions", "BranchOutcome", "Offer"]

#: Roots climb so many times longer than other domains.
_ROOT_WORK = 3

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

    Raises:
        OptionError: the batch is empty.
    """

    batch: int = 64
    root: AscentOptions = field(default_factory=lambda: AscentOptions(iterations=60))
    children: AscentOptions = field(
        default_factory=lambda: AscentOptions(
            iterations=20, slope_rate=0.1, split_rate=0.3, decay=0.95, patience=6
        )
    )
    branching: BranchingOptions = field(default_factory=BranchingOptions)
    offered: int = 8
    nodes: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise OptionError(f"the batch must be positive, got {self.batch}")


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
        near: inputs near a counterexample, `[M, *input shape]`; they may guide the choice of units.
    """

    def __init__(
        self,
        problem: SplitProblem,
        options: BranchOptions,
        offer: Offer,
        near: NDArray[np.floating] | None = None,
    ) -> None:
        self._problem = problem
        self._options = options
        self._offer = offer
        self._tree = Tree()
        self._bounder = DomainBounder(problem, options.children)
        self._leaves = LeafPrograms(problem)
        costs = measured_costs(problem) if options.branching.cost_adjusted else None
        self._brancher = Brancher(problem, self._bounder, options.branching, near, costs)
        self._ranks = SlotStore(self._brancher.width, dtype=np.int32)
        self._points = SlotStore(self._brancher.width, dtype=np.float64)
        self._pace = Pace(options.batch)
        self._broken = False

    def run(self, budget: Budget) -> BranchOutcome:
        """Search until nothing is open, a candidate is accepted, or the budget ends."""
        roots = len(self._problem.rows)
        self._warm_starts = SlotStore(self._bounder.width, budget.memory // 2)
        nodes = self._tree.add_roots(np.full(roots, -np.inf))
        rooted = DomainBounder(self._problem, self._options.root)
        self._pace.begin()
        self._visit(nodes, rooted, budget)
        self._pace.end(_ROOT_WORK * len(nodes))
        while not (self._broken or budget.expired or self._full()):
            count = self._pace.batch(budget.remaining)
            picked = self._pick(count)
            if not len(picked):
                break
            self._pace.begin()
            leaves = self._expand(picked, count)
            self._visit(leaves, self._bounder, budget)
            self._pace.end(len(leaves))
        accounting = self._tree.accounting()
        return BranchOutcome(
            lower=self._tree.least_lower(),
            accounting=accounting,
            finished=accounting.open == 0 and accounting.stuck == 0 and accounting.balanced,
            broken=self._broken,
        )

    def _full(self) -> bool:
        return self._options.nodes is not None and len(self._tree) >= self._options.nodes

    def _pick(self, count: int) -> Int[np.ndarray, "B"]:
        """The open domains with the least bounds."""
        open_ = self._tree.open_nodes()
        if len(open_) <= count:
            return open_
        lower = self._tree.lower(open_)
        return np.asarray(open_[np.argpartition(lower, count)[:count]])

    def _expand(self, nodes: Int[np.ndarray, "B"], count: int) -> Int[np.ndarray, "leaves"]:
        """Split each node, at several units while there are few nodes; returns the leaves."""
        warm, found = self._warm_starts.take(nodes)
        ranked = self._ranks.take(nodes)[0].astype(np.int64) - 1
        points = self._points.take(nodes)[0].astype(np.float64)
        levels = max(1, int(np.log2(max(1, count / len(nodes)))))
        levels = min(levels, ranked.shape[1])
        owner = np.arange(len(nodes))
        leaves = nodes
        for level in range(levels):
            units = ranked[owner, level]
            can = units >= 0
            if not can.any():
                break
            children = self._tree.split(leaves[can], units[can], points[owner[can], level])
            leaves = np.concatenate([leaves[~can], children])
            owner = np.concatenate([owner[~can], owner[can], owner[can]])
        self._warm = warm[owner].astype(np.float32)
        self._has_warm = bool(found.any())
        return leaves

    def _visit(self, nodes: Int[np.ndarray, "B"], bounder: DomainBounder, budget: Budget) -> None:
        """Bound nodes, close the proved ones, prepare the others for splitting."""
        path = self._tree.paths(nodes)
        first = bounder is not self._bounder
        payload = None if first or not self._has_warm else self._warm
        batch = DomainBatch(self._tree.root(nodes), path.units, path.signs, payload, path.points)
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
        part = _part(batch, result, left)
        leaf = self._prepare(nodes[left], part, _select(result, left))
        self._decide(nodes[left[leaf]], _part(batch, result, left[leaf]), budget)

    def _prepare(
        self, nodes: Int[np.ndarray, "B"], batch: DomainBatch, result: DomainResult
    ) -> NDArray[np.int64]:
        """Keep the units to split next and the warm start; returns where no unit is left."""
        if not self._problem.units:
            return np.arange(len(nodes))
        ranked = self._brancher.rank(batch, result)
        keep = (ranked >= 0).any(axis=1)
        self._ranks.put(nodes[keep], ranked[keep] + 1)
        self._points.put(nodes[keep], self._brancher.points(result, ranked)[keep])
        self._warm_starts.put(nodes[keep], result.payload[keep])
        return np.flatnonzero(~keep)

    def _decide(self, nodes: Int[np.ndarray, "B"], batch: DomainBatch, budget: Budget) -> None:
        """Linear programs on leaves: close, or offer their points; ties are given up.

        A leaf that the budget leaves no time for stays open.
        """
        if not len(nodes):
            return
        found = self._leaves.solve(batch.root, unit_walls(batch, self._problem.units), budget)
        self._tree.raise_lower(nodes, found.lower)
        proved = found.lower > 0
        self._tree.close(nodes[proved])
        if len(found.points) and self._offer(found.points):
            self._broken = True
        self._tree.give_up(nodes[found.tried & ~proved])


def _part(batch: DomainBatch, result: DomainResult, rows: NDArray[np.int64]) -> DomainBatch:
    points = None if batch.points is None else batch.points[rows]
    return DomainBatch(
        batch.root[rows], batch.units[rows], batch.signs[rows], result.payload[rows], points
    )


def _select(result: DomainResult, rows: NDArray[np.int64]) -> DomainResult:
    weights = result.constraint_weights
    return DomainResult(
        lower=result.lower[rows],
        incoming=result.incoming[rows],
        unit_lower=result.unit_lower[rows],
        unit_upper=result.unit_upper[rows],
        candidates=result.candidates[rows],
        payload=result.payload[rows],
        constraint_weights=None if weights is None else weights[rows],
    )
