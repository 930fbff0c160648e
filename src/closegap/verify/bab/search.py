"""The loop: pick open domains, split them, bound the children, close what is proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.stopwatch import Stopwatch
from closegap.core.verdict import Reason
from closegap.search.frontier import Frontier
from closegap.search.keeper import TreeKeeper, unlike_arrays
from closegap.search.slots import SlotStore
from closegap.search.tree import Tree
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.branching import Brancher
from closegap.verify.bab.clipping import Clipping
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.costs import measured_costs
from closegap.verify.bab.domains import DomainBatch, DomainResult
from closegap.verify.bab.expansion import split_levels
from closegap.verify.bab.finish import Finisher
from closegap.verify.bab.given import GivenRows
from closegap.verify.bab.learning import Learning
from closegap.verify.bab.multineuron import JointRows
from closegap.verify.bab.nogoods import NoGoods
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.outcome import BranchOutcome, Offer
from closegap.verify.bab.pace import tree_pace
from closegap.verify.bab.payloads import Payloads
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.small import SmallPrograms
from closegap.verify.bab.strengthening import Strengthening
from closegap.verify.bab.waiting import never

__all__ = ["BranchAndBound"]

#: Roots climb so many times longer than other domains.
_ROOT_WORK = 3

#: Constraints are looked for where so many times longer is left than they take.
_WORTHWHILE = 2

#: Where rows close more of what is open than this, all of it is bounded anew before it is split.
_REBOUND = 1 / 4

#: Of the memory, this part (one in so many) is for the tree itself.
_TREE_SHARE = 4

#: What is timed.
_PARTS = (
    "bounds", "rows", "candidates", "branching", "leaves", "learning", "waiting", "worker",
)  # fmt: skip


class BranchAndBound:
    """One search over one problem.

    Args:
        problem: roots, units, bounds.
        options: how to search.
        offer: judges candidates.
        near: inputs near a counterexample, `[M, *input shape]`; they may guide the choice of units.
        tree: of this problem, which other searches may grow between runs; a new one by default.
        small: programs of this problem; none by default.
    """

    def __init__(
        self,
        problem: SplitProblem,
        options: BranchOptions,
        offer: Offer,
        near: NDArray[np.floating] | None = None,
        tree: Tree | None = None,
        small: SmallPrograms | None = None,
    ) -> None:
        self._problem = problem
        self._options = options
        self._offer = offer
        self._tree = Tree() if tree is None else tree
        self._rows = Strengthening(problem, options.multineuron, options.children)
        self._clipping = Clipping(problem, options.clipping)
        self._bounder = DomainBounder(problem, options.children, clipping=self._clipping)
        self._learning = Learning(problem, options.learning)
        self._finisher = Finisher(problem, offer, small, options.leaves)
        costs = measured_costs(problem) if options.branching.cost_adjusted else None
        self._branching_by = partial(
            Brancher, problem, options=options.branching, candidates=near, costs=costs
        )
        self._brancher = self._branching_by(bounder=self._bounder)
        self._payloads = Payloads(
            len(problem.rows), self._brancher.width, self._bounder.width, self._clipping.width
        )
        self._pace = tree_pace(options.batch)
        self._frontier = Frontier()
        self._watch = Stopwatch()
        self._kept: Mapping[str, NDArray[np.generic]] | None = None
        self._broken = False
        self._begun = False

    def resume(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Continue a search of this problem where `TreeKeeper` was given its state.

        Raises:
            ValueError: the arrays are damaged, or of another problem.
        """
        tree = Tree.of_arrays(arrays)
        if not np.array_equal(arrays.get("form", np.zeros(0)), self._problem.form):
            raise ValueError("the tree is one of another form of the network")
        self._rows.restore(arrays)
        self._learning.restore(arrays)
        self._use(self._rows.constraints)
        unlike = unlike_arrays(arrays, self.state())
        units = np.asarray(arrays.get("unit", [0]))
        if unlike or tree.accounting().roots != len(self._problem.rows):
            raise ValueError(f"the tree is one of another problem: {', '.join(unlike)}")
        if len(units) and units.max() >= max(1, self._problem.units):
            raise ValueError("the tree splits units that this problem has not")
        self._tree, self._kept = tree, arrays

    @property
    def tree(self) -> Tree:
        """The tree; another one once `resume` was called."""
        return self._tree

    @property
    def learned(self) -> NoGoods:
        """Sets of signs under which a root's clause is proved."""
        return self._learning.known

    def run(
        self, budget: Budget, keeper: TreeKeeper | None = None, enough: Callable[[], bool] = never
    ) -> BranchOutcome:
        """Search, or go on, until nothing is open, a candidate is accepted, or the budget ends.

        Args:
            budget: deadline, nodes, memory. Under a node limit batches do not follow the clock, and
                leaves are decided between them (`LeafOptions`).
            keeper: is given the search's state now and then; nodes that wait for programs are open
                ones in it, to be bounded and decided again.
            enough: asked before every step; True ends the run.
        """
        self._brancher.steady = budget.nodes is not None
        limit = self._limit(budget)
        steady = budget.fewest_nodes(self._options.nodes) is not None
        with self._finisher.run(budget, steady=steady):
            if not self._begun:
                self._start(limit is None, budget)
            while not (self._collected() or budget.expired or enough()):
                limit = self._limit(budget)
                if not self._step(limit, budget):
                    break
                if keeper is not None and keeper.due:
                    keeper.keep(self.state())
        self._collected()
        accounting = self._tree.accounting()
        return BranchOutcome(
            lower=self._tree.least_lower(),
            accounting=accounting,
            finished=accounting.open == 0 and accounting.stuck == 0 and accounting.balanced,
            broken=self._broken,
            limit=limit if accounting.open else None,
            seconds=dict(self._watch.seconds),
        )

    def _step(self, limit: Reason | None, budget: Budget) -> bool:
        """Split and bound one batch, or see to what waits; False iff there is nothing to do."""
        self._strengthen(budget)
        count = self._count(budget)
        picked = self._frontier.pick(
            self._tree, count, self._payloads.fullness, self._finisher.waiting
        )
        if limit is not None or not len(picked):
            return self._wait(budget)
        self._pace.begin()
        leaves, batch = self._expand(picked, count, budget.fewest_nodes(self._options.nodes))
        self._visit(leaves, batch, budget)
        self._pace.end(len(leaves))
        return True

    def _collected(self) -> bool:
        """Take what programs have shown meanwhile; True iff a candidate was ever accepted."""
        found = self._finisher.collect(self._tree)
        self._broken = found.broken or self._broken
        if len(found.nodes):
            self._payloads.drop(found.nodes[~self._tree.is_open(found.nodes)])
            self._watch.add("worker", found.seconds)
        return self._broken

    def _wait(self, budget: Budget) -> bool:
        """Do programs that were not begun, else wait for those that were; False iff none waits."""
        if not len(self._finisher.waiting):
            return False
        with self._watch.part("leaves"):
            helped = self._finisher.help()
        if not helped:
            with self._watch.part("waiting"):
                self._finisher.wait(budget)
        return True

    def give(self, rows: Sequence[GivenRows]) -> None:
        """Rows that others found; the tree goes on with them if a trial says that they pay."""
        self._rows.give(rows)

    def settle(self, clauses: Int[np.ndarray, "K"]) -> None:
        """Close what is open of proved clauses; forget what others split or closed."""
        nodes = self._tree.open_nodes()
        done = np.isin(self._problem.clauses[self._tree.root(nodes)], clauses)
        self._tree.close(nodes[done])
        self._payloads.keep_only(nodes[~done])

    def _start(self, bounded: bool, budget: Budget) -> None:
        """Make the roots, or go on from what was kept."""
        self._begun = True
        self._payloads.reserve(budget.memory)
        if self._kept is not None:
            self._restore(self._kept)
            return
        self._tree.plant(len(self._problem.rows))
        if bounded:
            self._begin(budget)

    def _begin(self, budget: Budget) -> None:
        """Bound the roots, even if they are split already, with more work than other domains."""
        nodes = np.arange(len(self._problem.rows))
        self._pace.begin()
        self._visit(nodes, self._batch(nodes, None), budget)
        self._pace.end(_ROOT_WORK * len(nodes))
        self.settle(self._problem.clauses[self._tree.lower(nodes) > 0])

    def _strengthen(self, budget: Budget) -> None:
        """Look for rows that help what is open, when it is time."""
        nodes = self._tree.open_nodes()
        if not len(nodes) or not self._rows.due(len(self._tree), len(nodes)):
            return
        spend = _WORTHWHILE * (self._options.multineuron.after or 0) * self._pace.each
        if not self._rows.waiting and budget.nodes is None and budget.remaining < spend:
            return
        sample = self._rows.sample(self._tree, nodes)
        batch = self._batch(sample, self._payloads.starts(sample, self._tree.root(sample)))
        with self._watch.part("rows"):
            trial = self._rows.tried(batch, self._tree, self._bounder, budget)
        self._tree.raise_lower(sample, trial.lower)
        self._tree.close(sample[trial.lower > 0])
        if trial.rows is not None:
            self._adopt(trial.rows, sample, budget)
            if trial.closing > _REBOUND:  # nodes without units are bounded anew
                self._payloads.drop_choices(nodes)

    def _adopt(self, rows: JointRows, sample: Int[np.ndarray, "M"], budget: Budget) -> None:
        """Go on with other rows; every warm start learns them."""
        payloads, tried, each = self._payloads, rows.batch.payload, self._problem.rows.shape[1]
        assert tried is not None
        roots = rows.extended(payloads.root_starts, np.arange(len(payloads.root_starts)), each)
        before = self._use(rows.constraints, budget.memory)
        payloads.root_starts = roots
        for known, starts in before.parts(self._tree.open_nodes()):
            learned = rows.extended(starts.astype(np.float32), self._tree.root(known), each)
            learned[np.isin(known, sample)] = tried[np.isin(sample, known)]
            payloads.put_starts(known, learned)

    def _use(self, constraints: DomainConstraints, memory: int = 0) -> SlotStore:
        """Bound and branch with constraints from now on; returns the warm starts there were."""
        steady, scales = self._brancher.steady, self._bounder.scales
        self._bounder = DomainBounder(
            self._problem, self._options.children, constraints, self._clipping
        )
        self._bounder.scales = scales
        self._brancher = self._branching_by(bounder=self._bounder)
        self._brancher.steady = steady
        return self._payloads.widen(self._bounder.width, memory)

    def _limit(self, budget: Budget) -> Reason | None:
        """The limit that is reached."""
        nodes = budget.fewest_nodes(self._options.nodes)
        if nodes is not None and len(self._tree) >= nodes:
            return Reason.NODES
        held = self._tree.nbytes + self._payloads.nbytes
        return Reason.MEMORY if held > budget.memory // _TREE_SHARE else None

    def _count(self, budget: Budget) -> int:
        """Domains of the next batch; as many whatever the clock says under a node limit."""
        steady = budget.nodes is not None
        count = self._options.batch if steady else self._pace.batch(budget.remaining)
        nodes = budget.fewest_nodes(self._options.nodes)
        return count if nodes is None else max(1, min(count, (nodes - len(self._tree)) // 2))

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What a continued search needs; with `Tree.arrays` of any tree it is complete."""
        return {
            **self._tree.arrays(),
            **self._rows.arrays,
            **self._learning.arrays,
            **self._payloads.arrays(),
            "form": self._problem.form,
            "clipping": self._clipping.counts,
            "scales": self._bounder.scales,
            "pace": np.array([self._pace.each]),
            "plunging": np.array([self._frontier.plunging]),
            "seconds": np.array([self._watch.seconds.get(part, 0.0) for part in _PARTS]),
        }

    def _restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        self._payloads.restore(arrays)
        self._clipping.counts = arrays["clipping"]
        self._bounder.scales = arrays["scales"].astype(np.float64)
        self._pace = tree_pace(self._options.batch, each=float(arrays["pace"][0]))
        self._frontier = Frontier(plunging=bool(arrays["plunging"][0]))
        self._watch.seconds.update(zip(_PARTS, arrays["seconds"].tolist(), strict=False))

    def _expand(
        self, nodes: Int[np.ndarray, "B"], count: int, most: int | None
    ) -> tuple[Int[np.ndarray, "leaves"], DomainBatch]:
        """Split each open node; returns the open leaves of a tree with at most so many nodes."""
        kept = self._payloads.take(nodes, self._tree.root(nodes))
        boxes = self._clipping.known(kept.boxes, kept.boxed)
        leaves, owner = split_levels(self._tree, nodes, kept.ranked, kept.points, count)
        with self._watch.part("learning"):
            room = None if most is None else most - len(self._tree)
            leaves, owner = self._learning.propagate(self._tree, leaves, owner, room)
        batch = self._batch(leaves, kept.starts[owner])
        return leaves, replace(batch, boxes=None if boxes is None else boxes[owner])

    def _batch(self, nodes: Int[np.ndarray, "B"], start: NDArray[np.float32] | None) -> DomainBatch:
        path = self._tree.paths(nodes)
        return DomainBatch(self._tree.root(nodes), path.units, path.signs, start, path.points)

    def _visit(self, nodes: Int[np.ndarray, "B"], batch: DomainBatch, budget: Budget) -> None:
        """Bound nodes, close the proved ones, prepare the others; only roots have no start."""
        if not len(nodes):
            return
        begins = batch.payload is None
        bounder = self._bounder
        if begins:
            bounder = DomainBounder(self._problem, self._options.root, clipping=self._clipping)
        with self._watch.part("bounds"):
            result = bounder.bound(batch, budget)
        if begins:
            self._payloads.root_starts[batch.root] = result.payload
        self._tree.raise_lower(nodes, result.lower)
        lower = self._tree.lower(nodes)
        proved = lower > 0
        self._rows.closing = float(proved.mean())
        is_open = self._tree.is_open(nodes)
        done = np.flatnonzero(proved & is_open)
        self._tree.close(nodes[done])
        closed = replace(batch.part(done), payload=result.payload[done], boxes=None)
        with self._watch.part("learning"):
            self._learning.learn(closed, len(nodes), len(self._tree), self._bounder, budget)
        left = np.flatnonzero(~proved & is_open)
        if not len(left):
            return
        order = left[np.argsort(lower[left])][: self._options.offered]
        with self._watch.part("candidates"):
            self._broken = self._offer(result.candidates[order])
        if self._broken:
            return
        part = replace(batch.part(left), payload=result.payload[left])
        with self._watch.part("branching"):
            leaf = self._prepare(nodes[left], part, result.part(left))
        with self._watch.part("leaves"):
            part_result = result.part(left)
            self._broken = self._finisher.decide(
                self._tree, nodes[left[leaf]], part.part(leaf), part_result.part(leaf), budget
            )
            rest = np.setdiff1d(np.arange(len(left)), leaf)
            self._finish(nodes[left[rest]], part.part(rest), part_result.part(rest), budget)

    def _prepare(
        self, nodes: Int[np.ndarray, "B"], batch: DomainBatch, result: DomainResult
    ) -> NDArray[np.int64]:
        """Keep the units to split next and the warm start; returns where no unit is left."""
        if not self._problem.units:
            return np.arange(len(nodes))
        ranked = self._brancher.rank(batch, result)
        keep = (ranked >= 0).any(axis=1)
        points, boxes = self._brancher.points(result, ranked), result.boxes
        if boxes is not None:
            boxes = boxes[keep]
        self._payloads.put(nodes[keep], ranked[keep], points[keep], result.payload[keep], boxes)
        return np.flatnonzero(~keep)

    def _finish(
        self, nodes: Int[np.ndarray, "B"], batch: DomainBatch, result: DomainResult, budget: Budget
    ) -> None:
        """Close what small programs can; what was kept of it is forgotten."""
        if self._broken or not len(nodes):
            return
        self._broken = self._finisher.close_small(
            self._tree, nodes, batch, result, budget, self._pace.each
        )
        closed = nodes[~self._tree.is_open(nodes)]
        self._payloads.drop(closed)
