"""What linear programs finish: leaves, and subdomains with few open units where that pays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.worker import Ended
from closegap.search.tree import Tree
from closegap.verify.bab.clipping import leaf_walls
from closegap.verify.bab.domains import DomainBatch, DomainResult
from closegap.verify.bab.leaves import LeafPrograms
from closegap.verify.bab.outcome import Offer
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.small import SmallPrograms, SmallWorth
from closegap.verify.bab.waiting import Found, LeafOptions, WaitingRoom, alone, never
from closegap.verify.bab.walls import Walls

__all__ = ["Collected", "Finisher"]

#: The newest nodes say what a split gains.
_NEWEST = 256
#: Leaves of one task: their backward passes are one, and a run that ends waits for one program.
_TOGETHER = 8
#: Nodes that may wait, of either kind: leaves beyond are decided at once, others split.
_LEAVES, _SMALL = 128, 16


@dataclass(frozen=True, eq=False)
class Collected:
    """What came of nodes that waited.

    Attributes:
        nodes: they wait no longer.
        broken: a candidate was accepted.
        seconds: processor time of the thread since the last time.
    """

    nodes: Int[np.ndarray, "W"]
    broken: bool
    seconds: float


class Finisher:
    """Closes nodes of one tree by programs: between two batches, or while these are bounded.

    Args:
        problem: roots, units, bounds.
        offer: judges candidates.
        small: of the same problem; none by default.
        options: where programs run.
    """

    def __init__(
        self,
        problem: SplitProblem,
        offer: Offer,
        small: SmallPrograms | None = None,
        options: LeafOptions | None = None,
    ) -> None:
        self._problem, self._offer, self._small = problem, offer, small
        self._options = LeafOptions() if options is None else options
        self._leaves = LeafPrograms(problem)
        self._worth = SmallWorth()
        self._room = WaitingRoom()

    @property
    def waiting(self) -> Int[np.ndarray, "W"]:
        """Open nodes that wait for programs; they are not to be split."""
        return self._room.nodes

    @contextmanager
    def run(self, budget: Budget, *, steady: bool) -> Iterator[None]:
        """One run of the search; a thread that it has for programs ends with it.

        Nodes that wait when it ends stay open, and nothing is kept of them: whoever picks them
        bounds them anew, and decides them.

        Args:
            budget: of the run.
            steady: the tree has a node limit, so it must not depend on the clock.
        """
        with self._room.run(threaded=not steady and self._options.threaded(budget)):
            yield

    def decide(
        self,
        tree: Tree,
        nodes: Int[np.ndarray, "B"],
        batch: DomainBatch,
        result: DomainResult,
        budget: Budget,
    ) -> bool:
        """Linear programs on leaves: close, or offer their points; ties are given up.

        A leaf that the budget leaves no time for stays open. Where the run has a thread for
        programs leaves wait for it, and `collect` does the rest.

        Returns:
            True iff a candidate was accepted.
        """
        if not len(nodes):
            return False
        walls = leaf_walls(batch, result, self._problem)
        room = _LEAVES - self._room.count(small=False) if self._room.open else 0
        later = min(len(nodes), max(0, room))
        for first in range(0, later, _TOGETHER):
            part = slice(first, min(first + _TOGETHER, later))
            work = partial(self._decided, batch.root[part], walls.select(part), alone(budget))
            self._room.give(nodes[part], small=False, work=work)
        if later == len(nodes):
            return False
        now = slice(later, None)
        found = self._decided(batch.root[now], walls.select(now), budget, never)
        return self._apply(tree, nodes[now], found)

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
        if self._small is None or budget.nodes is not None or self._room.overran:
            return False
        waiting = self._room.count(small=True)
        chosen = self._wanted(self._small, tree.lower(nodes), result, each, tree)
        points: list[NDArray[np.float64]] = []
        for count, place in enumerate(chosen):
            root, units, signs = int(batch.root[place]), batch.units[place], batch.signs[place]
            work = partial(self._closed, self._small, root, units, signs)
            node = nodes[place : place + 1]
            if self._room.open and waiting + count < _SMALL:
                self._room.give(node, small=True, work=partial(work, alone(budget)))
            if self._room.open:
                continue
            if budget.expired:
                break
            began = time.thread_time()
            found = work(budget, never)
            self._worth.learn(time.thread_time() - began, bool(found.closed[0]))
            points += list(found.points)
            tree.close(node[found.closed])
        return bool(points) and self._offer(np.stack(points))

    def _wanted(
        self,
        small: SmallPrograms,
        lower: Float[np.ndarray, "B"],
        result: DomainResult,
        each: float,
        tree: Tree,
    ) -> Int[np.ndarray, "M"]:
        """Places of subdomains to try; a trial waits until no other one does."""
        open_ = np.asarray(((result.unit_lower < 0) & (result.unit_upper > 0)).sum(dim=1).numpy())
        few = np.flatnonzero((open_ > 0) & (open_ <= small.options.units))
        if not len(few):
            return few
        trial, gain = not self._room.count(small=True), tree.recent_gain(_NEWEST)
        wanted = self._worth.wanted(-lower[few], open_[few], gain, each, len(tree), trial=trial)
        return np.asarray(few[wanted])

    def collect(self, tree: Tree) -> Collected:
        """Apply what waiting nodes' programs have shown since the last call.

        Raises:
            Exception: what a program raised; its nodes stay open.
        """
        tasks, broken = self._room.take(), False
        for task in tasks:
            found = task.found
            if task.small:
                self._worth.learn(task.job.seconds, bool(found.closed.all()))
            broken = self._apply(tree, task.nodes, found) or broken
        nodes = [np.zeros(0, np.int64), *(task.nodes for task in tasks)]
        return Collected(np.concatenate(nodes), broken, self._room.spent())

    def help(self) -> bool:
        """Do here what waits and was not begun; False iff there is nothing of the kind."""
        return self._room.help()

    def wait(self, budget: Budget) -> None:
        """Wait until a program has ended, or the budget."""
        self._room.wait(budget.remaining)

    def _decided(
        self, root: Int[np.ndarray, "B"], walls: Walls, budget: Budget, ended: Ended
    ) -> Found:
        result = self._leaves.solve(root, walls, budget, ended)
        closed = result.lower > 0
        return Found(result.lower, closed, result.tried & ~closed, result.points)

    def _closed(
        self,
        small: SmallPrograms,
        root: int,
        units: Int[np.ndarray, "depth"],
        signs: Int[np.ndarray, "depth"],
        budget: Budget,
        ended: Ended,
    ) -> Found:
        closed, points = small.close(root, units, signs, budget, ended)
        shape, unknown = self._problem.input_shape, np.full(1, -np.inf)
        last = np.array(points[-1:], np.float64).reshape(-1, *shape)
        return Found(unknown, np.array([closed]), np.zeros(1, bool), last)

    def _apply(self, tree: Tree, nodes: Int[np.ndarray, "B"], found: Found) -> bool:
        """Nodes that others closed meanwhile stay as they are."""
        open_ = tree.is_open(nodes)
        tree.raise_lower(nodes[open_], found.lower[open_])
        tree.close(nodes[open_ & found.closed])
        broken = bool(len(found.points)) and self._offer(found.points)
        tree.give_up(nodes[open_ & found.stuck])
        return broken
