"""Several searches among signs on one query, sharing what they find, in shares that adapt.

First a short descent through soft signs and IProp from its best point, to a local optimum. Then
descent, IProp and the local search among the first layer's signs take turns, each from the best
point of all, with IProp from ever new starts, for the best point of one basin need not lead to
another. All get equal time until one of them pays: the time of a search that improved the margin in
its last turns counts for less. Time is measured, so the same seed need not find the same twice.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.binarized.bit_search import BitLanes, BitSearchOptions
from closegap.attacks.binarized.iprop import IPropOptions, Propagation, propagates
from closegap.attacks.binarized.problem import BinarizedProblem, searched
from closegap.attacks.binarized.soft_descent import SoftDescentOptions, SoftLanes
from closegap.attacks.binarized.soft_network import soft_network
from closegap.attacks.binarized.straight_through import (
    StraightThroughAttack,
    StraightThroughOptions,
    short_runs,
)
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.specs.query import Query

__all__ = ["SignPortfolio", "SignPortfolioOptions", "sign_portfolio"]

#: Seconds that a turn counts beside its own, so that one which does nothing costs something.
_LEAST_SECONDS = 1e-3
#: What the share of turns that pay keeps of itself in a turn, and how much it makes time cheaper.
_MEMORY = 0.7
_REWARD = 5.0


@dataclass(frozen=True)
class SignPortfolioOptions:
    """Sizes of the searches.

    Attributes:
        turns: in all, at most.
        opening: legs of the descent before the others begin, and before IProp at each new start.
        opening_share: of the time, at most, until all take turns.
        soft: the descent through soft signs; its legs are turns.
        bits: the search among signs.
        bit_rounds: of it in a turn.
        bit_price: of its seconds beside those of the others; it pays less often than they do.
        iprop: target propagation.
        iprop_rounds: of it in a turn.
        gradients: runs where the descent is not possible.
    """

    turns: int = 60
    opening: int = 3
    opening_share: float = 0.15
    soft: SoftDescentOptions = field(default_factory=SoftDescentOptions)
    bits: BitSearchOptions = field(default_factory=BitSearchOptions)
    bit_rounds: int = 2
    bit_price: float = 2.0
    iprop: IPropOptions = field(default_factory=IPropOptions)
    iprop_rounds: int = 2
    gradients: StraightThroughOptions = field(default_factory=short_runs)


@dataclass(eq=False)
class _Search:
    """One search and what it cost and brought.

    Attributes:
        turn: goes on from a point, or from its own where that is `None`; whether the others should
            have their turns now.
        price: of a second, 1 for most searches.
        cost: of the seconds spent, each over the weight that the search had then.
        pays: recent share of its turns that improved the least margin, the last ones most.
        seen: the least margin that it knows of.
    """

    turn: Callable[[NDArray[np.float32] | None], bool]
    price: float = 1.0
    cost: float = 0.0
    pays: float = 0.0
    seen: float = np.inf


@dataclass(frozen=True)
class SignPortfolio:
    """The searches in turns; on regions that are no boxes there is the gradient attack only."""

    options: SignPortfolioOptions = field(default_factory=SignPortfolioOptions)
    name: str = "sign-portfolio"

    def attack_query(self, query: Query, budget: Budget) -> AttackOutcome:
        """See `QueryAttack`.

        Raises:
            OptionError: the network is not binarized; says why.
        """
        return searched(query, self.name, budget, self._search)

    def _search(
        self, problem: BinarizedProblem | None, harvest: Harvest, budget: Budget
    ) -> AttackOutcome | None:
        if problem is None or not len(problem.free):
            other = StraightThroughAttack(self.options.gradients)
            return other.attack_query(harvest.query, budget)
        searches = _searches(problem, self.options, harvest, budget)
        opening, opens = budget.within(self.options.opening_share * budget.remaining), True
        for _ in range(self.options.turns):
            if harvest.done or budget.expired:
                break
            opens = opens and not opening.expired
            chosen = searches[0] if opens else min(searches, key=lambda s: s.cost)
            opens = not _take_turn(chosen, harvest) and opens
        return None


def _take_turn(search: _Search, harvest: Harvest) -> bool:
    """One turn; whether the others should have theirs now."""
    before, began = harvest.margin, time.monotonic()
    over = search.turn(harvest.best if before < search.seen else None)
    gained = harvest.margin < before
    search.pays = _MEMORY * search.pays + (1 - _MEMORY) * gained
    spent = search.price * (time.monotonic() - began + _LEAST_SECONDS)
    search.cost += spent / (1 + _REWARD * search.pays)
    search.seen = harvest.margin
    return over


def _searches(
    problem: BinarizedProblem, options: SignPortfolioOptions, harvest: Harvest, budget: Budget
) -> Sequence[_Search]:
    """Those that the network allows, the one that opens first."""
    network, allowed = soft_network(problem), propagates(problem)
    lanes = None if network is None else SoftLanes(problem, network, options.soft, harvest, budget)
    searches = [_bit_search(problem, options, harvest, budget)]
    if allowed:
        searches.insert(0, _propagation(problem, options, harvest, budget, lanes))
    if lanes is None:
        return [_gradients(problem.query, options, harvest, budget), *searches]
    searches.insert(0, _descent(lanes, options.opening))
    return [_starts(problem, lanes, options, harvest, budget), *searches] if allowed else searches


def _propagation(
    problem: BinarizedProblem,
    options: SignPortfolioOptions,
    harvest: Harvest,
    budget: Budget,
    lanes: SoftLanes | None,
) -> _Search:
    """IProp; from a local optimum it goes on at another point of the descent."""
    propagation = Propagation(problem, options.iprop, harvest, budget)
    stuck = False

    def propagate(point: NDArray[np.float32] | None) -> bool:
        nonlocal stuck
        if point is None and stuck and lanes is not None:
            point = lanes.drawn()
        if point is not None:
            propagation.begin(point.reshape(-1).astype(np.float64))
        stuck = not propagation.run(options.iprop_rounds)
        return stuck

    return _Search(propagate)


def _starts(
    problem: BinarizedProblem,
    lanes: SoftLanes,
    options: SignPortfolioOptions,
    harvest: Harvest,
    budget: Budget,
) -> _Search:
    """IProp again and again from new starts, whatever others found."""
    propagation = Propagation(problem, options.iprop, harvest, budget)
    turns = _turns_of_starts(propagation, lanes, options)

    def start(_: NDArray[np.float32] | None) -> bool:
        return next(turns)

    return _Search(start)


def _turns_of_starts(
    propagation: Propagation, lanes: SoftLanes, options: SignPortfolioOptions
) -> Iterator[bool]:
    """From short descents of their own and from the center in turn, each to a local optimum.

    Yields:
        after every turn whether it came to an optimum.
    """
    for number in itertools.count():
        if number % 2 == 0:
            own = lanes if number == 0 else lanes.anew(number)
            for _ in range(options.opening):
                own.leg()
                yield False
            propagation.begin(own.best.astype(np.float64))
        else:
            propagation.begin_at_center()
        while propagation.run(options.iprop_rounds):
            yield False
        yield True


def _descent(lanes: SoftLanes, opening: int) -> _Search:
    """Through soft signs."""
    legs = itertools.count(1)

    def descend(point: NDArray[np.float32] | None) -> bool:
        if point is not None:
            lanes.join(point)
        lanes.leg()
        return next(legs) >= opening

    return _Search(descend)


def _gradients(
    query: Query, options: SignPortfolioOptions, harvest: Harvest, budget: Budget
) -> _Search:
    """Runs on the network as it was given."""
    runs = itertools.count()

    def run(_: NDArray[np.float32] | None) -> bool:
        attack, number = StraightThroughAttack(options.gradients), next(runs)
        harvest.add(attack.attack_query(query, replace(budget, seed=budget.seed + number)))
        return number + 1 >= options.opening

    return _Search(run)


def _bit_search(
    problem: BinarizedProblem, options: SignPortfolioOptions, harvest: Harvest, budget: Budget
) -> _Search:
    nothing = np.zeros((0, *problem.query.network.input_shape), np.float32)
    lanes = BitLanes(problem, options.bits, harvest, nothing, budget)

    def search(point: NDArray[np.float32] | None) -> bool:
        if point is not None:
            lanes.join(point[None])
        lanes.run(options.bit_rounds)
        return False

    return _Search(search, options.bit_price)


def sign_portfolio(options: AttackOptions) -> SignPortfolio:
    """The attack, with a user's sizes: `steps` of each descent, `restarts` as its lanes."""
    sizes = SignPortfolioOptions()
    soft = replace(
        sizes.soft,
        steps=options.steps or sizes.soft.steps,
        lanes=options.restarts or sizes.soft.lanes,
    )
    return SignPortfolio(replace(sizes, soft=soft))
