"""Near witnesses of one distance: which attack when, and for how long.

Attacks as they were published come first and have more of short times than all others: where
their steps fit, what they find elsewhere they find here. Walks from cell to cell, and FAB below the
best distance, follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest, NearestAttack, OnNearer
from closegap.attacks.minimal.below import below
from closegap.attacks.minimal.exchange import Exchange
from closegap.attacks.minimal.portfolio import Entry, portfolio, shortest
from closegap.attacks.minimal.settle import Settling
from closegap.core.budget import Budget
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import norm_objective

__all__ = ["STARTS_MOST", "Witnesses"]

#: Counterexamples from elsewhere that attacks go on from, at most.
STARTS_MOST = 4

#: Of the time, for published attacks, and for those with many lanes; of short times more.
_ATTACK_SHARE = 0.07
#: On networks of more units than this exact search cannot hope to end soon: there the others get
#: this share of as much. On networks of at most `_FEW` it may end sooner than the attacks.
_LARGE, _LARGE_MOST, _FEW = 1500, 0.5, 300
#: Of the time, for walks, and for FAB below the best distance before them and after them.
_WALK_SHARE, _BELOW_SHARE = 0.15, 0.05
#: Of the time, for the nearest points of the linear regions at what the attacks found; of short
#: times this share, up to a second.
_SETTLE_SHARE, _SETTLE_MOST = 0.05, 0.1
#: For other distances than norms, of the time, for attacks and programs, and for walks in l1.
_PROXY_ATTACKS, _PROXY_WALK = 0.16, 0.04
#: Of the time, for attacks that are asked once more, if all of their steps fit.
_AGAIN_SHARE = 0.15
#: Of the time, for other sets of pixels, from so many counterexamples.
_EXCHANGE_SHARE, _EXCHANGED = 0.2, 3
#: Of what is left, for a walk from a witness that came up elsewhere.
_IMPROVE_SHARE = 0.2
#: Of what is left, for attacks of thousands of steps, if all of these fit.
_LONG_SHARE = 0.35
#: Rounds of attacks with other random numbers go on while they take this share of what is left of
#: the time, or find a nearer witness.
_WORTH = 0.02
#: As long as their share lasts.
_SETTLING = Settling(seconds=math.inf)


class Witnesses:
    """Searches for witnesses of one distance, in parts.

    Args:
        query: whose.
        attack: walks.
        budget: of everything.
        counts: says of a float32 point and its distance whether it counts; keeps the nearest.
        best: the nearest so far.

    Attributes:
        known: counterexamples from elsewhere, nearest first, that attacks go on from.
    """

    def __init__(
        self,
        query: DistanceQuery,
        attack: NearestAttack,
        budget: Budget,
        counts: OnNearer,
        best: Callable[[], Nearest],
    ) -> None:
        self._query = query
        self._attack = attack
        self._budget = budget
        self._counts = counts
        self._best = best
        self.known: tuple[Nearest, ...] = ()
        self._portfolio = portfolio(query.objective)
        self._cut: tuple[Entry, ...] = ()
        network = query.network
        self._units = sum(network.nodes[i].size for i in network.activations)

    @property
    def late(self) -> bool:
        """Whether a tree may end before attacks do: the network is small."""
        return self._units <= _FEW

    def search(self) -> None:
        """Attacks, then walks."""
        query, budget, whole = self._query, self._budget, self._budget.remaining
        known = (*self._begun(), *self.published(), *self._again())
        known = (*known, *self._exchanged(known))
        proxy = query.objective.norm is None
        share = (_PROXY_ATTACKS if proxy else _ATTACK_SHARE) * whole
        if self._units > _LARGE:
            share = max(share, _LARGE_MOST * shortest(whole))
        found = self._portfolio.starts(query, budget.within(share), self._counts, known)
        settling = budget.within(max(_SETTLE_SHARE * whole, min(_SETTLE_MOST * whole, 1.0)))
        found = _SETTLING.each(query, found, settling, self._counts)
        walk = budget.within((_PROXY_WALK if proxy else _WALK_SHARE) * whole)
        if proxy:
            self._attack.run(replace(query, objective=norm_objective(1)), walk, self._by_proxy)
            return
        self._below(_BELOW_SHARE * whole)
        starts = [nearest.point for nearest in (self._best(), *found) if nearest.point is not None]
        self._attack.run(query, walk, self._counts, starts)
        self._below(_BELOW_SHARE * whole)

    def _begun(self) -> tuple[Nearest, ...]:
        """What was known before the attacks: the nearest so far, and others from elsewhere."""
        best = self._best()
        return (
            *([best] if best.found else []),
            *(n for n in self.known if n.distance > best.distance),
        )

    def published(self) -> tuple[Nearest, ...]:
        """What attacks find that run as they were published, as far as they fit."""
        whole = self._budget.remaining
        spend = self._budget.within(max(_ATTACK_SHARE * whole, shortest(whole)))
        found, self._cut = self._portfolio.first(self._query, spend, self._counts, self._budget)
        return found

    def _again(self) -> tuple[Nearest, ...]:
        """What attacks find with other random numbers."""
        spend = self._budget.within(_AGAIN_SHARE * self._budget.remaining)
        spend = replace(spend, seed=self._budget.seed + 1)
        return self._portfolio.whole(self._portfolio.again, self._query, spend, self._counts)

    def _exchanged(self, known: Sequence[Nearest]) -> tuple[Nearest, ...]:
        """Where pixels are counted, fewer of them, from the nearest that are known."""
        if not self._query.objective.integral:
            return ()
        spend = self._budget.within(_EXCHANGE_SHARE * self._budget.remaining)
        starts = sorted(known, key=lambda nearest: nearest.distance)[:_EXCHANGED]
        found = Exchange().run(self._query, starts, spend, self._counts)
        return (found,) if found.found else ()

    def long(self) -> None:
        """Published attacks that had fewer steps, if all of these fit now; then a walk."""
        spend = self._budget.within(_LONG_SHARE * self._budget.remaining)
        before = self._best().distance
        self._portfolio.whole(self._cut, self._query, spend, self._counts)
        best = self._best()
        if best.distance < before and best.point is not None:
            self.improve(best.point)

    def rest(self) -> None:
        """All of the time that nobody else has a use for: attacks with other random numbers."""
        turn = 1
        while not self._budget.expired:
            left, before = self._budget.remaining, self._best().distance
            spend = replace(self._budget, seed=self._budget.seed + (turn := turn + 1))
            found = self._portfolio.starts(self._query, spend, self._counts, self._begun())
            _SETTLING.each(self._query, found, spend, self._counts)
            short = left - self._budget.remaining < _WORTH * left
            if self._best().distance >= before and (short or math.isinf(left)):
                return

    def improve(self, point: NDArray[np.float32]) -> None:
        """Walk from a counterexample; where pixels are counted, exchange some before."""
        best = self._best()
        if best.point is not None and np.array_equal(point, best.point):
            self._exchanged((best,))
        if self._query.objective.norm is not None:
            spend = self._budget.within(_IMPROVE_SHARE * self._budget.remaining)
            self._attack.improve(self._query, point, spend, self._counts)

    def _below(self, seconds: float) -> None:
        """Ask FAB for nearer points than the best."""
        best = self._best()
        if best.found and best.distance > 0:
            below(self._query, best.distance, self._budget.within(seconds), self._counts)

    def _by_proxy(self, point: NDArray[np.float32], _: float) -> bool:
        """Whether a point breaks the property; if so, it may be the nearest in our distance."""
        return self._counts(point, self._query.distance(point))
