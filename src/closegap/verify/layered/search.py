"""The loop: one tree for all clauses, newest domains first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.search.keeper import TreeKeeper, unlike_arrays
from closegap.search.slots import SlotStore
from closegap.search.tree import Accounting, Tree
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.pace import Pace
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.walls import Walls
from closegap.verify.layered.bounder import ClauseBounds, LayeredBounder
from closegap.verify.layered.known import DomainStore, Known

__all__ = ["LayeredOptions", "LayeredOutcome", "LayeredSearch"]

#: Judges candidates `[M, *input shape]`; True stops the search.
Offer = Callable[[NDArray[np.float64]], bool]


@dataclass(frozen=True)
class LayeredOptions:
    """How to search.

    Attributes:
        batch: domains split at a time; the children are twice as many.
        climb: on the property's rows.
        steps: gradient steps on the multipliers of half-spaces, for every row of every layer.
        units: climbing on the slopes of every unit's rows, in every domain.
        apart: a domain is split by clauses when no more are left; each has a half-space.
        offered: candidates offered from each batch, the lowest first.
        nodes: at most so many domains, or `None`.
    """

    batch: int = 8
    climb: AscentOptions = field(
        default_factory=lambda: AscentOptions(iterations=5, slope_rate=0.2, decay=0.9, patience=4)
    )
    steps: int = 4
    units: AscentOptions = field(
        default_factory=lambda: AscentOptions(iterations=4, slope_rate=0.5, decay=0.9, patience=4)
    )
    apart: int = 3
    offered: int = 4
    nodes: int | None = None


@dataclass(frozen=True, eq=False)
class LayeredOutcome:
    """What the search proved.

    Attributes:
        lower: the least of all clauses' margins is at least this; infinity when all leaves are
            closed (the margins are positive; how large was not asked).
        accounting: where every domain went.
        broken: a candidate was accepted.
        full: the node limit ended it, with domains open.
    """

    lower: float
    accounting: Accounting
    broken: bool
    full: bool = False


class LayeredSearch:
    """One search over one problem: one tree for all clauses.

    Many clauses are proved together. When few of them are left on a domain it is split by clauses
    first: that one of them is broken is a half-space, and every layer is bounded again within it.

    Args:
        problem: its roots are the open clauses.
        options: how to search.
        offer: judges candidates.
    """

    def __init__(self, problem: SplitProblem, options: LayeredOptions, offer: Offer) -> None:
        self._problem = problem
        self._options = options
        self._offer = offer
        self._tree = Tree()
        self._bounder = LayeredBounder(problem, options.climb, options.steps, options.units)
        self._leaves = LeafPrograms(problem)
        #: The unit to split next; one beyond the last for a split by clauses; -1 where the budget
        #: ended before a domain without units was decided.
        self._notes = SlotStore(1, dtype=np.int32)
        size = problem.exact_region.lower[0].numel()
        self._kept = DomainStore(problem.units, size, len(problem.rows), options.apart)
        self._pace = Pace(options.batch, clock=time.thread_time)
        self._broken = False

    def run(self, budget: Budget, keeper: TreeKeeper | None = None) -> LayeredOutcome:
        """Search, or go on, until nothing is open, a candidate is accepted, or the budget ends.

        Under the budget's node limit batches do not follow the clock. A search that raised an error
        must not go on: what it was about to bound is lost.

        Args:
            budget: deadline, nodes.
            keeper: is given the search's state now and then.
        """
        if not len(self._tree):
            self._begin(budget)
        while not (self._broken or budget.expired or self._full(budget)):
            nodes, known = self._expand(self._count(budget))
            if not len(nodes):
                break
            self._visit(nodes, known, budget)
            if keeper is not None and keeper.due:
                keeper.keep(self.state())
        count = self._tree.accounting()
        return LayeredOutcome(
            lower=float(self._tree.least_lower()[0]),
            accounting=count,
            broken=self._broken,
            full=count.open > 0 and self._full(budget),
        )

    def state(self) -> dict[str, NDArray[np.generic]]:
        """What a continued search needs, between runs and batches; every open node waits then."""
        noted, notes = self._notes.held()
        return {
            **self._tree.arrays(),
            **self._kept.arrays(),
            "noted": noted,
            "notes": notes,
            "form": self._problem.form,
            "scales": self._bounder.scales,
            "pace": np.array([self._pace.each]),
        }

    def resume(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Continue a search of this problem where `state` left it.

        Raises:
            ValueError: the arrays are damaged, or of another problem.
        """
        tree, units = Tree.of_arrays(arrays), self._problem.units
        if not np.array_equal(arrays.get("form", np.zeros(0)), self._problem.form):
            raise ValueError("the tree is one of another form of the network")
        unlike = unlike_arrays(arrays, self.state())
        if unlike or tree.accounting().roots != 1:
            raise ValueError(f"the tree is one of another problem: {', '.join(unlike)}")
        if arrays["unit"].max(initial=0) > units or arrays["notes"].max(initial=0) > units:
            raise ValueError("the tree splits units that this problem has not")
        noted = arrays["noted"].astype(np.int64)
        if not np.array_equal(noted, tree.open_nodes()):
            raise ValueError("the tree's open nodes are not those that wait")
        self._kept.restore(arrays, noted)
        self._notes.put(noted, arrays["notes"])
        self._bounder.scales = arrays["scales"].astype(np.float64)
        each = float(arrays["pace"][0])
        self._pace = Pace(self._options.batch, each=each, clock=time.thread_time)
        self._tree = tree

    def _begin(self, budget: Budget) -> None:
        """Make the root, and bound it if it may be."""
        root, known = self._tree.add_roots(np.full(1, -np.inf)), self._kept.root()
        if budget.fewest_nodes(self._options.nodes) == 0:
            self._keep(root, np.array([-1]), known)
        else:
            self._visit(root, known, budget)

    def _full(self, budget: Budget) -> bool:
        """Whether two more domains are too many."""
        most = budget.fewest_nodes(self._options.nodes)
        return most is not None and len(self._tree) + 2 > most

    def _count(self, budget: Budget) -> int:
        """Domains of the next batch, each split in two."""
        steady = budget.nodes is not None
        count = self._options.batch if steady else self._pace.batch(budget.remaining)
        most = budget.fewest_nodes(self._options.nodes)
        return count if most is None else min(count, (most - len(self._tree)) // 2)

    def _expand(self, count: int) -> tuple[Int[np.ndarray, "B"], Known]:
        """Split the newest open domains: near relatives have the same units open."""
        picked = self._tree.open_nodes()[-count:]
        units = self._notes.take(picked)[0][:, 0].astype(np.int64)
        known = self._kept.take(picked)
        undecided = np.flatnonzero(units < 0)
        if len(undecided):
            self._keep_others(picked, units, known)
            return picked[undecided], known.select(undecided)
        children = self._tree.split(picked, units)
        apart = np.flatnonzero(units == self._problem.units)
        plain = np.flatnonzero(units < self._problem.units)
        halves = known.select(plain).join(known.select(plain))
        first, others = known.select(apart).first_clause(), known.select(apart).other_clauses()
        nodes = np.concatenate([children[plain], children[len(picked) + plain], children[apart]])
        rest = children[len(picked) + apart]
        several = (others.open_.sum(dim=1) > 1).numpy()
        later, now = np.flatnonzero(several), np.flatnonzero(~several)
        self._keep(rest[later], units[apart[later]], others.select(later))
        nodes = np.concatenate([nodes, rest[now]])
        return nodes, halves.join(first).join(others.select(now))

    def _keep(self, nodes: Int[np.ndarray, "B"], units: Int[np.ndarray, "B"], known: Known) -> None:
        self._notes.put(nodes, units[:, None])
        self._kept.put(nodes, known)

    def _keep_others(
        self, nodes: Int[np.ndarray, "B"], units: Int[np.ndarray, "B"], known: Known
    ) -> None:
        """Those that have a unit to split wait for those that are still to be decided."""
        others = np.flatnonzero(units >= 0)
        self._keep(nodes[others], units[others], known.select(others))

    def _visit(self, nodes: Int[np.ndarray, "B"], known: Known, budget: Budget) -> None:
        """Bound domains in one step of the pace."""
        self._pace.begin()
        self._bound(nodes, known, budget)
        self._pace.end(len(nodes))

    def _bound(self, nodes: Int[np.ndarray, "B"], known: Known, budget: Budget) -> None:
        """Bound domains, close the proved ones, note what to split next in the others."""
        path = self._tree.paths(nodes)
        walls = Walls.of_splits(path.units, path.signs, path.points, self._problem.units)
        found = self._bounder.bound(walls, known, budget)
        lower = found.lower.numpy()
        self._tree.raise_lower(nodes, lower)
        self._tree.close(nodes[lower > 0])
        left = np.flatnonzero(lower <= 0)
        if not len(left):
            return
        order = left[np.argsort(lower[left])][: self._options.offered]
        self._broken = self._offer(self._points(found.candidates[order].numpy()))
        most = found.losses.amax(dim=1).numpy()
        split = np.isfinite(found.losses.numpy()).all(axis=1) & (most > 0)
        units, clauses = found.losses.argmax(dim=1).numpy(), found.known.open_.sum(dim=1).numpy()
        units = np.where(
            (clauses > 1) & (clauses <= self._options.apart), self._problem.units, units
        )
        go = left[split[left]]
        self._keep(nodes[go], units[go], found.known.select(go))
        self._decide(nodes, found, left[~split[left]], budget)

    def _decide(
        self,
        nodes: Int[np.ndarray, "B"],
        found: ClauseBounds,
        which: NDArray[np.int64],
        budget: Budget,
    ) -> None:
        """Linear programs on domains with nothing left to split, one for each open clause."""
        units = found.known.units
        on, off = (units.low >= 0).numpy(), (units.high <= 0).numpy()
        signs = np.where(on, 1, -off.astype(np.int8)).astype(np.int8)
        for leaf in which:
            clauses = np.flatnonzero(found.known.open_[leaf].numpy())
            walls = Walls.at_zero(np.repeat(signs[leaf][None], len(clauses), axis=0))
            answer = self._leaves.solve(clauses, walls, budget)
            node = nodes[leaf : leaf + 1]
            if (answer.lower > 0).all():
                self._tree.close(node)
            elif answer.tried.all():
                self._tree.give_up(node)
            else:
                self._keep(node, np.array([-1]), found.known.select(np.array([leaf])))
            if len(answer.points) and self._offer(answer.points):
                self._broken = True

    def _points(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        return flat.reshape(-1, *self._problem.input_shape)
