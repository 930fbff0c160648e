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
from closegap.attacks.sparse.climbing import Grouping
from closegap.attacks.sparse.ground import Ground, make_ground
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.leaves import Leaves
from closegap.attacks.sparse.lookout import Lookout
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.options import Order, SparseOptions
from closegap.attacks.sparse.starts import Starts
from closegap.attacks.sparse.visits import Visits
from closegap.attacks.sparse.waves import Waves
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.stopwatch import Stopwatch
from closegap.core.verdict import Reason
from closegap.specs.distance import DistanceQuery

__all__ = ["SparseSearch"]

#: In networks of so few neurons a ground costs as much as a few nodes: it is made anew as soon as
#: the limit has fallen to this share.
_FEW, _SOON = 300, 0.97
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
        self._watch = Stopwatch()
        self._nodes: Nodes | None = None
        network = query.network
        few = sum(network.nodes[i].size for i in network.activations) <= _FEW
        self._shrunk = max(options.shrunk, _SOON) if few else options.shrunk
        self._next: int | None = None
        self._programs = 0
        self._reason: Reason | None = None
        self._leaves = leaves = Leaves(options, query, incumbent)
        self._grouping = Grouping(options.groups, programs=not options.batch)
        self._starts = Starts(options, query, budget, incumbent)
        lookout = Lookout(options, query, incumbent, budget)
        self._visits = Visits(options, leaves, lookout, budget, self._watch)
        self._waves = Waves(options, leaves, lookout, self._watch)
        self._incumbent.prove(max(leaves.least, options.known))
        self._patience = budget.within(_PATIENCE * budget.remaining)

    @property
    def least(self) -> float:
        """What the leaves prove together."""
        return self._leaves.least

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
            with self._watch.part("sweeps"):
                whole = self._nodes.settled(self._options.sweeps)
            roots = self._leaves.plant(len(self._nodes.ground.rows), whole)
            for root in roots.tolist() if not self._options.batch else ():
                self._visits.narrow(self._nodes, root)
            self._leaves.settle()

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
            with self._watch.part("attack"):
                self._starts.settle(self.nodes)
            if self._starts.due(self.nodes):
                self.attack()
            if self._hopeless():
                self._reason = Reason.INCOMPLETE
                return
            if self._budget.nodes is not None and self.nodes >= self._budget.nodes:
                self._reason = Reason.NODES
                return
            if not self._options.batch or node in self._waves.left:
                self._next = self._visits.visit(self._nodes, node)
            else:
                self._waves.advance(self._nodes)
            limit, shrunk = self._nodes.ground.limit, self._shrunk
            if self._incumbent.distance < min(shrunk * limit, (2 - shrunk) * limit):
                self._renew()  # a limit may be negative
            self._leaves.settle()

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
        return len(self._leaves.tree)

    @property
    def closed(self) -> bool:
        """Whether no node is left: no counterexample is nearer than the limit."""
        return self._leaves.all_closed

    @property
    def paused(self) -> bool:
        """Whether another turn may go on: only this one's time ended."""
        return self._reason is Reason.TIME and not self._budget.expired

    def answer(self) -> SparseAnswer:
        """The bracket as it stands."""
        accounting = self._leaves.tree.accounting()
        best = self._incumbent
        closed = self.closed or self._options.tolerance.closes(best.lower, best.distance)
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

    def _renew(self) -> bool:
        """Bound the neurons within the best distance; False where there is no ground at all."""
        if self._nodes is not None and not self._options.cutoff:
            return True
        limit = self._leaves.limit if self._options.cutoff else math.inf
        with self._watch.part("bounds"):
            ground = self._bounded_within(limit)
        if ground is not None:
            old = self._nodes
            self._nodes = self._nodes_on(ground)
            if old is not None:
                self._programs += old.programs
                with self._watch.part("sweeps"):
                    whole = self._nodes.settled(self._options.sweeps)
                self._leaves.move(old.ground, ground, whole)
        return self._nodes is not None

    def _nodes_on(self, ground: Ground) -> Nodes:
        objective, curved = self._query.objective, self._options.curved
        return Nodes(ground, objective, self._budget, curved, self._grouping)

    def _bounded_within(self, limit: float) -> Ground | None:
        inner = math.isfinite(self._options.within)
        climb = AscentOptions(iterations=self._options.climb) if self._options.climb else None
        return make_ground(self._query, limit, self._budget, climb, dense=inner)

    def _pick(self) -> int | None:
        """The next open node."""
        tree, wanted = self._leaves.tree, self._next
        if wanted is not None and tree.is_open(np.array([wanted]))[0]:
            return wanted
        open_ = tree.open_nodes()
        if not len(open_):
            return None
        if self._options.order is Order.DEPTH:
            return int(open_[-1])
        return int(open_[np.argmin(tree.lower(open_))])
