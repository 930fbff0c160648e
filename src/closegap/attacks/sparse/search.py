"""The tree over activation phases: the least distance between its closed nodes and a witness.

Nodes of all targets are in one tree, a root each, under one best distance. A node is closed only by
a proved bound: half-spaces and multipliers evaluated anew (`planes`), or certified programs. What a
solver could not answer is split further or stays open.
Source: Ben Mhenni, Ibn Khedher and Canu, Sparse and invisible adversarial attacks using MIP
optimization (2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.sparse.answer import SparseAnswer
from closegap.attacks.sparse.ascent import Slopes
from closegap.attacks.sparse.choice import Choice, Chooser, preferred
from closegap.attacks.sparse.ground import Ground, make_ground
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.lookout import Lookout
from closegap.attacks.sparse.nodes import Nodes, narrower
from closegap.attacks.sparse.options import Order, SparseOptions
from closegap.attacks.sparse.planes import Proof, Ranges
from closegap.attacks.sparse.relaxation import Solved
from closegap.attacks.sparse.starts import Starts
from closegap.attacks.sparse.wave import Limits, bounded_front, started
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.stopwatch import Stopwatch
from closegap.core.verdict import Reason
from closegap.search.tree import Tree
from closegap.specs.distance import DistanceQuery

__all__ = ["SparseSearch"]

#: Programs of one node at most, each after its units' ranges shrank.
_LOOPS = 4
#: Of its time, in which a tree has to pass what is known.
_PATIENCE = 0.2


class SparseSearch:
    """One query's tree, grown in turns.

    Args:
        options: the parts.
        query: on a network of ReLUs and leaky ReLUs.
        budget: of all turns: deadline, nodes and seed.
        incumbent: judges points, and is told what is proved.
    """

    def __init__(
        self, options: SparseOptions, query: DistanceQuery, budget: Budget, incumbent: Incumbent
    ) -> None:
        self._options = options
        self._query = query
        self._budget = budget
        self._incumbent = incumbent
        self._tree = Tree()
        self._watch = Stopwatch()
        self._nodes: Nodes | None = None
        self._chooser: Chooser | None = None
        self._ranges: dict[int, Ranges] = {}
        self._slopes: dict[int, Slopes] = {}
        self._left: set[int] = set()
        self._next: int | None = None
        self._programs = 0
        self._closed = math.inf
        self._starts = Starts(options, query, budget, incumbent)
        self._lookout = Lookout(options, query, self._incumbent, budget)
        self._reason: Reason | None = None
        size = query.image.size
        zero, one = np.zeros((1, size)), np.ones(size)
        floor = query.objective.least(query.center, zero, np.zeros(1), 0 * one, one)
        self._incumbent.prove(max(float(floor[0]), options.known))
        self._patience = budget.within(_PATIENCE * budget.remaining)
        self.least = float(floor[0])

    def clean(self) -> bool:
        """Whether the image itself is a counterexample."""
        return self._incumbent.offer(self._query.image)

    def begin(self, starts: Sequence[NDArray[np.floating]]) -> None:
        """Judge the starts, look for one where there is none, and plant the roots."""
        for point in starts:
            self._incumbent.offer(point.reshape(-1))
        with self._watch.part("attack"):
            self._starts.quick()
        if self._renew():
            assert self._nodes is not None
            ground = self._ground()
            self._chooser = Chooser(self._options, ground.known.shape[1])
            roots = self._tree.add_roots(np.full(len(ground.rows), self._incumbent.lower))
            with self._watch.part("sweeps"):
                whole = self._nodes.settled(self._options.sweeps)
            self._ranges = {int(root): whole for root in roots}
            for root in roots if not self._options.batch else ():
                self._narrow(int(root))
            self._settle()

    def offer(self, point: NDArray[np.floating] | None) -> None:
        """A counterexample that others found; `None` for none."""
        if point is not None:
            self._incumbent.offer(point.reshape(-1))

    def grow(self, turn: Budget | None = None) -> None:
        """Visit open nodes until none is left, the budget ends, or this turn does."""
        self._reason, turn = None, turn or self._budget
        while self._nodes is not None:
            node = self._pick()
            if node is None:
                return
            if turn.expired:
                self._reason = Reason.TIME
                return
            if self._starts.due(len(self._tree)):
                self.attack()
            if self._hopeless():
                self._reason = Reason.INCOMPLETE
                return
            if self._budget.nodes is not None and len(self._tree) >= self._budget.nodes:
                self._reason = Reason.NODES
                return
            if not self._options.batch or node in self._left:
                self._visit(node)
            else:
                self._wave()
            limit, shrunk = self._ground().limit, self._options.shrunk
            if self._incumbent.distance < min(shrunk * limit, (2 - shrunk) * limit):
                self._renew()  # a limit may be negative
            self._settle()

    def attack(self) -> None:
        """Look for near counterexamples, once."""
        with self._watch.part("attack"):
            self._starts.near()

    def _hopeless(self) -> bool:
        """Whether the tree is still behind what is known, after all this time."""
        known = self._options.known
        return self._incumbent.lower <= known > -math.inf and self._patience.expired

    @property
    def nodes(self) -> int:
        """Nodes created."""
        return len(self._tree)

    @property
    def closed(self) -> bool:
        """Whether no node is left: no counterexample is nearer than the limit."""
        accounting = self._tree.accounting()
        return accounting.roots > 0 and accounting.open + accounting.stuck == 0

    @property
    def paused(self) -> bool:
        """Whether another turn may go on: only this one's time ended."""
        return self._reason is Reason.TIME and not self._budget.expired

    def answer(self) -> SparseAnswer:
        """The bracket as it stands."""
        accounting = self._tree.accounting()
        best = self._incumbent
        closed = self.closed or best.distance - best.lower <= self._options.tolerance
        reason = self._reason or (Reason.TIME if self._budget.expired else Reason.INCOMPLETE)
        return SparseAnswer(
            lower=min(best.lower, best.distance),
            upper=best.distance,
            witness=best.best.point,
            closed=closed,
            reason=None if closed else reason,
            accounting=accounting,
            programs=self._programs + (self._nodes.programs if self._nodes else 0),
            units=self._nodes.ground.units if self._nodes else 0,
            seconds=dict(self._watch.seconds),
            history=tuple(best.history),
        )

    @property
    def _cutoff(self) -> float:
        """A node with a bound this high holds nothing that is nearer by more than the tolerance."""
        if self._query.objective.integral:
            return self._limit - 0.5
        if self._options.within < self._incumbent.distance:
            return self._options.within
        return self._incumbent.distance - self._options.tolerance

    @property
    def _limit(self) -> float:
        """Inputs from this distance on do not count."""
        return min(self._incumbent.distance, self._options.within)

    def _ground(self) -> Ground:
        assert self._nodes is not None
        return self._nodes.ground

    def _renew(self) -> bool:
        """Bound the neurons within the best distance; False where there is no ground at all."""
        if self._nodes is not None and not self._options.cutoff:
            return True
        limit = self._limit if self._options.cutoff else math.inf
        with self._watch.part("bounds"):
            ground = self._bounded_within(limit)
        if ground is not None:
            old = self._nodes
            self._nodes = Nodes(ground, self._query.objective, self._budget)
            if old is not None:
                self._programs += old.programs
                self._slopes.clear()
                with self._watch.part("sweeps"):
                    whole = self._nodes.settled(self._options.sweeps)
                self._move(old.ground, ground, whole)
        return self._nodes is not None

    def _bounded_within(self, limit: float) -> Ground | None:
        inner = math.isfinite(self._options.within)
        climb = AscentOptions(iterations=self._options.climb) if self._options.climb else None
        return make_ground(self._query, limit, self._budget, climb, dense=inner)

    def _move(self, old: Ground, new: Ground, whole: Ranges) -> None:
        """Open nodes' ranges on a new ground; those it excludes are closed."""
        for node, ranges in list(self._ranges.items()):
            known = new.known.copy()
            known[0, old.place] = np.maximum(known[0, old.place], ranges.low)
            known[1, old.place] = np.minimum(known[1, old.place], ranges.high)
            ranges = Ranges(known[0, new.place], known[1, new.place]).within(whole)
            self._ranges[node] = ranges
            if ranges.empty or (known[0] > known[1]).any():
                self._bounded(node, new.limit)

    def _pick(self) -> int | None:
        """The next open node."""
        if self._next is not None:
            return self._next
        open_ = self._tree.open_nodes()
        if not len(open_):
            return None
        if self._options.order is Order.DEPTH and not self._options.batch:
            return int(open_[-1])
        return int(open_[np.argmin(self._tree.lower(open_))])

    def _narrow(self, node: int, margins: Sequence[Proof] = ()) -> bool:
        """Sweep over a node's units while that helps; True where it closes the node."""
        assert self._nodes is not None
        row = int(self._tree.root(np.array([node]))[0])
        more = list(margins)
        for _ in range(self._options.sweeps if self._options.propagate or more else 0):
            with self._watch.part("propagation"):
                lower, proof = self._nodes.propagated(row, self._ranges[node])
            if self._bounded(node, lower):
                return True
            if self._budget.expired:
                return False
            with self._watch.part("sweeps"):
                before = self._ranges[node]
                after = self._nodes.swept(before, more or [proof])
            if after.empty:
                return self._bounded(node, self._ground().limit)
            self._ranges[node] = after
            if not narrower(after, before):
                break
            more = []
        return False

    def _bounded(self, node: int, lower: float) -> bool:
        """Raise a node's bound; True where that closes it."""
        at = np.array([node])
        if self._query.objective.integral:
            lower = float(np.ceil(lower))
        self._tree.raise_lower(at, np.array([lower]))
        bound = float(self._tree.lower(at)[0])
        if bound < self._cutoff:
            return False
        self._closed = min(self._closed, bound)
        self._tree.close(at)
        self._ranges.pop(node, None)
        self._slopes.pop(node, None)
        self._next = None if self._next == node else self._next
        return True

    def _settle(self) -> None:
        """What the leaves prove together."""
        left = self._tree.least_lower()
        self.least = min(float(left.min(initial=math.inf)), self._closed, self._limit)
        self._incumbent.prove(self.least)

    def _wave(self) -> None:
        """Bound the open nodes with the least bounds together; close, split, or leave each."""
        assert self._nodes is not None
        open_ = self._tree.open_nodes()
        order = np.argsort(self._tree.lower(open_), kind="stable")
        front = [n for n in open_[order[: self._options.batch]].tolist() if n not in self._left]
        with self._watch.part("ascent"):
            rows = self._tree.root(np.array(front))
            held = [self._ranges[node] for node in front]
            ranges = Ranges(np.stack([r.low for r in held]), np.stack([r.high for r in held]))
            start = started(self._nodes, ranges, [self._slopes.get(node) for node in front])
            seen = bounded_front(self._nodes, rows, ranges, start, self._limits(front))
        split = []
        for at, node in enumerate(front):
            if self._bounded(node, float(seen.lower[at])):
                continue
            self._ranges[node] = seen.ranges.select(at)
            if seen.units[at] < 0:
                self._left.add(node)
            else:
                split.append(at)
        if not split:
            return
        first = split[0]
        with self._watch.part("candidates"):
            point = seen.climbed.points[first]
            self._lookout.glimpse(self._nodes, int(rows[first]), point, self._ranges[front[first]])
        nodes, units = np.array(front)[split], seen.units[split]
        children = self._tree.split(nodes, self._ground().place[units])
        for child, at, sign in zip(
            children.tolist(), split * 2, np.repeat((1, -1), len(split)).tolist(), strict=True
        ):
            parent = self._ranges[front[at]]
            self._ranges[child] = parent.split(int(seen.units[at]), sign)
            self._slopes[child] = seen.climbed.slopes.one(at)
        for node in nodes.tolist():
            del self._ranges[node]
            self._slopes.pop(node, None)

    def _limits(self, front: list[int]) -> Limits:
        """How long to bound nodes."""
        chosen = self._tree.lower(np.array(front)) >= self._options.rebound * self._cutoff
        return Limits(self._options.steps, self._cutoff, chosen)

    def _visit(self, node: int) -> None:
        """Bound a node; close it, split it, or give it up."""
        assert self._nodes is not None
        self._next = None
        row = int(self._tree.root(np.array([node]))[0])
        for _ in range(_LOOPS):
            ranges = self._ranges[node]
            with self._watch.part("programs"):
                solved, proof = self._nodes.solve(row, ranges, self._cutoff)
            if self._bounded(node, solved.lower):
                return
            if self._budget.expired:
                return
            with self._watch.part("candidates"):
                self._lookout.look(self._nodes, row, solved, ranges)
            if self._bounded(node, solved.lower):
                return
            if proof is None or not self._improve(node, proof):
                break
            if node not in self._ranges:
                return
        with self._watch.part("branching"):
            choice = self._choose(row, solved, self._ranges[node])
        if self._budget.expired:
            return
        if choice is None:
            self._tree.give_up(np.array([node]))
            self._ranges.pop(node)
        else:
            self._split(node, choice, solved)

    def _improve(self, node: int, proof: Proof) -> bool:
        """Narrow a node by what its program proved; True where another program is worth it."""
        assert self._nodes is not None
        before = self._ranges[node]
        if self._options.reduced_costs:
            with self._watch.part("reduced costs"):
                # Not the cutoff: what is left may be bounded above it, what is cut off was not.
                self._ranges[node] = self._nodes.implied(proof, before, self._limit)
        if self._options.tighten and self._narrow(node, [proof]):
            return True
        return narrower(self._ranges[node], before)

    def _choose(self, row: int, solved: Solved, ranges: Ranges) -> Choice | None:
        assert self._nodes is not None and self._chooser is not None
        nodes, cutoff = self._nodes, self._cutoff

        def trial(unit: int, sign: int) -> float:
            if self._budget.expired:
                return -math.inf
            found = nodes.solve(row, ranges.split(unit, sign), cutoff)[0].lower
            return math.inf if found >= cutoff else found

        return self._chooser.choose(solved, ranges, self._ground().place, trial)

    def _split(self, node: int, choice: Choice, solved: Solved) -> None:
        """Two children; what is known of them may close them at once."""
        place = int(self._ground().place[choice.unit])
        ranges = self._ranges.pop(node)
        children = self._tree.split(np.array([node]), np.array([place]))
        live = []
        for child, sign in zip(children.tolist(), (1, -1), strict=True):
            self._ranges[child] = ranges.split(choice.unit, sign)
            known = min(choice.bounds.get(sign, -math.inf), self._cutoff)
            if not (self._bounded(child, known) or self._narrow(child)):
                live.append(child)
        self._next = preferred(self._options, live, choice.unit, solved)
