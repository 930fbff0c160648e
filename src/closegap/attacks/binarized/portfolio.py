"""Several searches among signs on one query, sharing what they find, in shares that adapt.

Descent through soft signs, IProp, and the local search among the first layer's signs take turns.
All get equal time until one of them pays: the time of a search that improved the margin in its last
turns counts for less. Whoever is next goes on from the best point of all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.binarized.bit_search import BitLanes, BitSearchOptions
from closegap.attacks.binarized.iprop import IPropOptions, Propagation, propagates
from closegap.attacks.binarized.problem import BinarizedProblem, binarized_problem
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
        opening: turns of the descent before the others begin.
        soft: the descent through soft signs; its legs are turns.
        bits: the search among signs.
        bit_rounds: of it in a turn.
        iprop: target propagation.
        iprop_rounds: of it in a turn.
        gradients: runs where the descent is not possible.
    """

    turns: int = 60
    opening: int = 3
    soft: SoftDescentOptions = field(default_factory=SoftDescentOptions)
    bits: BitSearchOptions = field(default_factory=BitSearchOptions)
    bit_rounds: int = 5
    iprop: IPropOptions = field(default_factory=IPropOptions)
    iprop_rounds: int = 2
    gradients: StraightThroughOptions = field(default_factory=short_runs)


@dataclass(eq=False)
class _Search:
    """One search and what it cost and brought.

    Attributes:
        turn: goes on from a point, or from its own where that is `None`.
        cost: seconds spent, each over the weight that the search had then.
        pays: recent share of its turns that improved the least margin, the last ones most.
        seen: the least margin that it knows of.
    """

    turn: Callable[[NDArray[np.float32] | None], None]
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
        problem = binarized_problem(query, self.name)
        harvest = Harvest(query)
        if budget.expired or not query.prop.clauses:
            return harvest.ended(self.name, budget)
        if problem is None or not len(problem.free):
            found = StraightThroughAttack(self.options.gradients).attack_query(query, budget)
            return replace(found, method=self.name)
        searches = _searches(problem, self.options, harvest, budget)
        for number in range(self.options.turns):
            if harvest.done or budget.expired:
                break
            opening = number < self.options.opening
            chosen = searches[0] if opening else min(searches, key=lambda s: s.cost)
            _take_turn(chosen, harvest)
        return harvest.ended(self.name, budget)


def _take_turn(search: _Search, harvest: Harvest) -> None:
    before, began = harvest.margin, time.monotonic()
    search.turn(harvest.best if before < search.seen else None)
    gained = harvest.margin < before
    search.pays = _MEMORY * search.pays + (1 - _MEMORY) * gained
    search.cost += (time.monotonic() - began + _LEAST_SECONDS) / (1 + _REWARD * search.pays)
    search.seen = harvest.margin


def _searches(
    problem: BinarizedProblem, options: SignPortfolioOptions, harvest: Harvest, budget: Budget
) -> Sequence[_Search]:
    """Those that the network allows, the descent first."""
    network = soft_network(problem)
    if network is None:
        lanes, searches = None, [_gradients(problem.query, options, harvest, budget)]
    else:
        lanes = SoftLanes(problem, network, options.soft, harvest, budget)
        searches = [_descent(lanes)]
    if propagates(problem):
        searches.append(_propagation(problem, options, harvest, budget, lanes))
    return [*searches, _bit_search(problem, options, harvest, budget)]


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

    def propagate(point: NDArray[np.float32] | None) -> None:
        nonlocal stuck
        if point is None and stuck and lanes is not None:
            point = lanes.drawn()
        if point is not None:
            propagation.begin(point.reshape(-1).astype(np.float64))
        stuck = not propagation.run(options.iprop_rounds)

    return _Search(propagate)


def _descent(lanes: SoftLanes) -> _Search:
    """Through soft signs."""

    def descend(point: NDArray[np.float32] | None) -> None:
        if point is not None:
            lanes.join(point)
        lanes.leg()

    return _Search(descend)


def _gradients(
    query: Query, options: SignPortfolioOptions, harvest: Harvest, budget: Budget
) -> _Search:
    """Runs on the network as it was given."""
    seeds = itertools.count(budget.seed)

    def run(_: NDArray[np.float32] | None) -> None:
        attack = StraightThroughAttack(options.gradients)
        harvest.add(attack.attack_query(query, replace(budget, seed=next(seeds))))

    return _Search(run)


def _bit_search(
    problem: BinarizedProblem, options: SignPortfolioOptions, harvest: Harvest, budget: Budget
) -> _Search:
    nothing = np.zeros((0, *problem.query.network.input_shape), np.float32)
    lanes = BitLanes(problem, options.bits, harvest, nothing, budget)

    def search(point: NDArray[np.float32] | None) -> None:
        if point is not None:
            lanes.join(point[None])
        lanes.run(options.bit_rounds)

    return _Search(search)


def sign_portfolio(options: AttackOptions) -> SignPortfolio:
    """The attack, with a user's sizes: `steps` of each descent, `restarts` as its lanes."""
    sizes = SignPortfolioOptions()
    soft = replace(
        sizes.soft,
        steps=options.steps or sizes.soft.steps,
        lanes=options.restarts or sizes.soft.lanes,
    )
    return SignPortfolio(replace(sizes, soft=soft))
