"""Counterexamples from elsewhere, for the tree: a quick one at first, nearer ones if it grows long.

A tree of few units closes sooner than an attack gives up; what a quick one found is settled once
the tree has some nodes, which takes little and mostly comes as near. A tree of many units is the
shorter, the nearer the counterexample that it starts with: there all attacks come first. Where the
distance is no norm the walks minimise l1, and successive programs go on from what they find.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.below import below
from closegap.attacks.minimal.portfolio import portfolio, shortest
from closegap.attacks.minimal.registry import make_minimal
from closegap.attacks.minimal.settle import Settling
from closegap.attacks.minimal.successive import SuccessivePrograms
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import SparseOptions
from closegap.core.budget import Budget
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import norm_objective

__all__ = ["Starts"]

#: An attack that knows all norms, a lane for any class and one for each of a few. Settled, what a
#: hundred steps found was no nearer.
_QUICK = "fmn", AttackOptions(steps=30, restarts=4)
#: Of the time, where published attacks end that took longer than they promised.
_LONGEST = 0.5
#: Nodes after which a tree is worth a settled start.
_SOME = 64
#: The share of the time after which a tree has grown long: all attacks take about as much. Without
#: a limit of time, so many nodes.
_SHARE, _NODES = 0.25, 2048
#: Trees of networks of more neurons are long.
_FEW = 300


class Starts:
    """Attacks for one tree.

    Args:
        options: which attack, and for how much of the time.
        query: whose counterexamples.
        budget: of the tree.
        incumbent: is offered what they find.
    """

    def __init__(
        self, options: SparseOptions, query: DistanceQuery, budget: Budget, incumbent: Incumbent
    ) -> None:
        self._options = options
        self._query = query
        self._budget = budget
        self._incumbent = incumbent
        self._patience = budget.within(_SHARE * budget.remaining)
        self._waiting = self._many = options.attack is not None
        self._unsettled = False
        network = query.network
        self._large = sum(network.nodes[i].size for i in network.activations) > _FEW

    def quick(self) -> None:
        """A few gradient steps, where nothing is known; on large networks many attacks."""
        query, budget, incumbent = self._query, self._budget, self._incumbent
        if not self._options.quick or incumbent.best.found or budget.expired:
            return
        if self._large and self._many:
            self._several()
            return
        norm = 0.0 if query.objective.integral else query.objective.norm
        attack = make_minimal(*_QUICK, 1.0 if norm is None else norm)
        spend = budget.within(self._options.attack_share * budget.remaining)
        self._offer(attack.run(query, spend, incumbent.counts).point)
        if norm is None:
            self._programs()
        self._unsettled = self._options.settle

    def settle(self, nodes: int) -> None:
        """What the quick attack found, in its linear regions, once a tree has some nodes."""
        if self._unsettled and nodes >= _SOME:
            self._unsettled, best = False, self._incumbent.best
            spend = self._budget.within(self._options.attack_share * self._budget.remaining)
            self._offer(Settling().run(self._query, best, spend, self._incumbent.counts).point)

    def due(self, nodes: int) -> bool:
        """Whether a tree of so many nodes has grown long, for the first time."""
        long = nodes >= _NODES and math.isinf(self._patience.deadline)
        return self._waiting and (long or self._patience.expired)

    def near(self) -> None:
        """Everything, once."""
        attack, query, budget = self._options.attack, self._query, self._budget
        if attack is None or not self._waiting or budget.expired:
            return
        self._waiting = False
        self._several()
        spend = budget.within(self._options.attack_share * budget.remaining)
        best = self._incumbent.best.point
        starts = () if best is None else (best,)
        if query.objective.norm is not None:
            self._offer(attack.run(query, spend, self._incumbent.counts, starts).point)
            return
        proxy = replace(query, objective=norm_objective(1))
        self._offer(attack.run(proxy, spend, self._breaks, starts).point)
        self._programs()

    def _several(self) -> None:
        """The attacks that the distance has, once; linear regions at what they found; FAB below."""
        query, budget, counts = self._query, self._budget, self._incumbent.counts
        if not self._many or budget.expired:
            return
        self._many = False
        share, suite = self._options.attack_share, portfolio(query.objective)
        limit = budget.within(_LONGEST * budget.remaining)
        first = limit.within(max(share * budget.remaining, shortest(budget.remaining)))
        known, _ = suite.first(query, first, counts, limit)
        spend = budget.within(share * budget.remaining)
        for nearest in (found := suite.starts(query, spend, counts, known))[:1]:
            self._offer(nearest.point)
        spend = budget.within(share * budget.remaining)
        for nearest in Settling(seconds=math.inf).each(query, found, spend, counts)[:1]:
            self._offer(nearest.point)
        distance = self._incumbent.distance
        if query.objective.norm is not None and 0 < distance < math.inf:
            spend = budget.within(share * budget.remaining)
            self._offer(below(query, distance, spend, counts).point)

    def _programs(self) -> None:
        """From the best, successive programs of a distance that is no norm."""
        best, budget = self._incumbent.best.point, self._budget
        if best is not None:
            spend = budget.within(self._options.attack_share * budget.remaining)
            programs = SuccessivePrograms(classes=0)
            self._offer(programs.run(self._query, spend, self._incumbent.counts, (best,)).point)

    def _offer(self, point: NDArray[np.floating] | None) -> None:
        if point is not None:
            self._incumbent.offer(point.reshape(-1))

    def _breaks(self, point: NDArray[np.float32], _: float) -> bool:
        """Whether a point breaks the property; if so, it may be the nearest in our distance."""
        broken = self._incumbent.counts(point, self._query.distance(point))
        if broken:
            self._offer(point)
        return broken
