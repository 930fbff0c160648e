"""The loop: one tree for all clauses, newest domains first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.search.slots import SlotStore
from closegap.search.tree import Accounting, Tree
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.pace import Pace
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.walls import Walls
from closegap.verify.layered.bounder import ClauseBounds, LayeredBounder

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
        offered: candidates offered from each batch, the lowest first.
        nodes: at most so many domains, or `None`.
    """

    batch: int = 8
    climb: AscentOptions = field(
        default_factory=lambda: AscentOptions(iterations=10, slope_rate=0.2, decay=0.9, patience=4)
    )
    steps: int = 8
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
    """

    lower: float
    accounting: Accounting
    broken: bool


class LayeredSearch:
    """One search over one problem.

    A domain is closed when every clause is proved on it; a clause proved on an ancestor stays so.

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
        self._bounder = LayeredBounder(problem, options.climb, options.steps)
        self._leaves = LeafPrograms(problem)
        self._clauses = len(problem.rows)
        #: The unit to split next, and which clauses are proved.
        self._notes = SlotStore(1 + self._clauses, dtype=np.int32)
        self._broken = False

    def run(self, budget: Budget) -> LayeredOutcome:
        """Search until nothing is open, a candidate is accepted, or the budget ends."""
        pace = Pace(self._options.batch)
        nodes = self._tree.add_roots(np.full(1, -np.inf))
        closed = np.zeros((1, self._clauses), bool)
        while len(nodes):
            pace.begin()
            self._visit(nodes, closed, budget)
            pace.end(len(nodes))
            if self._broken or budget.expired or self._full():
                break
            nodes, closed = self._expand(pace.batch(budget.remaining))
        return LayeredOutcome(
            float(self._tree.least_lower()[0]), self._tree.accounting(), self._broken
        )

    def _full(self) -> bool:
        return self._options.nodes is not None and len(self._tree) >= self._options.nodes

    def _expand(self, count: int) -> tuple[Int[np.ndarray, "B"], NDArray[np.bool_]]:
        """Split the newest open domains: near relatives have the same units open."""
        picked = self._tree.open_nodes()[-count:]
        notes = self._notes.take(picked)[0]
        children = self._tree.split(picked, notes[:, 0].astype(np.int64))
        return children, np.concatenate([notes, notes])[:, 1:] > 0

    def _visit(
        self, nodes: Int[np.ndarray, "B"], closed: NDArray[np.bool_], budget: Budget
    ) -> None:
        """Bound domains, close the proved ones, note what to split next in the others."""
        path = self._tree.paths(nodes)
        walls = Walls.of_splits(path.units, path.signs, path.points, self._problem.units)
        found = self._bounder.bound(walls, torch.as_tensor(closed), budget)
        lower = np.where(closed, np.inf, found.lower.numpy())
        closed = closed | (lower > 0)
        self._tree.raise_lower(nodes, lower.min(axis=1))
        proved = closed.all(axis=1)
        self._tree.close(nodes[proved])
        left = np.flatnonzero(~proved)
        if not len(left):
            return
        order = left[np.argsort(lower[left].min(axis=1))][: self._options.offered]
        self._broken = self._offer(self._points(found.candidates[order].numpy()))
        units = found.losses.argmax(dim=1).numpy()
        split = np.isfinite(found.losses.numpy()).all(axis=1) & (found.losses.amax(1).numpy() > 0)
        go = left[split[left]]
        self._notes.put(nodes[go], np.column_stack([units, closed])[go])
        self._decide(nodes, closed, found, left[~split[left]], budget)

    def _decide(
        self,
        nodes: Int[np.ndarray, "B"],
        closed: NDArray[np.bool_],
        found: ClauseBounds,
        which: NDArray[np.int64],
        budget: Budget,
    ) -> None:
        """Linear programs on domains with nothing left to split, one for each open clause."""
        on = (found.unit_lower >= 0).numpy().astype(np.int8)
        off = (found.unit_upper <= 0).numpy().astype(np.int8)
        for leaf in which:
            clauses = np.flatnonzero(~closed[leaf])
            signs = np.repeat((on - off * (1 - on))[leaf][None], len(clauses), axis=0)
            answer = self._leaves.solve(clauses, Walls.at_zero(signs), budget)
            node = nodes[leaf : leaf + 1]
            if (answer.lower > 0).all():
                self._tree.close(node)
            elif answer.tried.all():
                self._tree.give_up(node)
            if len(answer.points) and self._offer(answer.points):
                self._broken = True

    def _points(self, flat: NDArray[np.float64]) -> NDArray[np.float64]:
        return flat.reshape(-1, *self._problem.input_shape)
