"""Signed descent through softened signs, many lanes at once, with widths that adapt.

The derivative of a sign is that of a tanh. How wide is best differs from network to network and
from layer to layer, and so does whether values behind a sign had better be true or soft; so lanes
begin with all of these, and later lanes take after those that got furthest. Margins that count are
those of true signs. Sources: Hubara et al., Binarized Neural Networks (2016), for straight-through
derivatives; soft values that harden on the way are an annealing of the network.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float32, Int
from numpy.typing import NDArray

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.binarized.problem import BinarizedProblem, searched
from closegap.attacks.binarized.soft_network import SoftNetwork, soft_network
from closegap.attacks.binarized.straight_through import (
    StraightThroughAttack,
    StraightThroughOptions,
)
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.specs.query import Query

__all__ = ["SoftDescent", "SoftDescentOptions", "SoftLanes", "soft_descent"]

#: Legs, of which the last has the clauses that are not nearest.
_OTHERS = 3


@dataclass(frozen=True)
class SoftDescentOptions:
    """Sizes of the search.

    Attributes:
        lanes: of a leg.
        steps: of a leg.
        legs: at most.
        targets: clauses attacked side by side, those of least margin; in every third leg new lanes
            have others, all of them in turn.
        softness: range from which lanes draw how soft their signs are, in units of how far slacks
            typically move.
        hardened: what is left of it at the end of a lane with soft values.
        stride: first and last step, as shares of the half-widths.
        momentum: of the direction.
        elite: best points, from which half of the later lanes go on.
        disturbed: range of the share of inputs that such a lane throws to random ends.
    """

    lanes: int = 16
    steps: int = 40
    legs: int = 40
    targets: int = 3
    softness: tuple[float, float] = (0.2, 0.5)
    hardened: float = 0.1
    stride: tuple[float, float] = (0.3, 0.03)
    momentum: float = 0.8
    elite: int = 8
    disturbed: tuple[float, float] = (0.02, 0.5)


@dataclass(frozen=True, eq=False)
class _Lanes:
    """Where lanes are, and what they ended with: the clause's least margin, and where."""

    points: Float32[np.ndarray, "L D"]
    clause: Int[np.ndarray, "L"]
    softness: Float32[np.ndarray, "L"]
    hard: Bool[np.ndarray, "L"]
    margin: Float32[np.ndarray, "L"]

    def at(self, which: NDArray[np.int64]) -> _Lanes:
        """Some of them."""
        parts = (self.points, self.clause, self.softness, self.hard, self.margin)
        return _Lanes(*(part[which] for part in parts))

    def and_(self, other: _Lanes) -> _Lanes:
        """Those and others."""
        parts = (self.points, self.clause, self.softness, self.hard, self.margin)
        more = (other.points, other.clause, other.softness, other.hard, other.margin)
        return _Lanes(*(np.concatenate(pair) for pair in zip(parts, more, strict=True)))


class SoftLanes:
    """The search on one query, leg by leg.

    Args:
        problem: the query.
        network: of it, with soft signs.
        options: sizes.
        harvest: receives every point that is better than all before.
        budget: deadline and seed.
    """

    def __init__(
        self,
        problem: BinarizedProblem,
        network: SoftNetwork,
        options: SoftDescentOptions,
        harvest: Harvest,
        budget: Budget,
    ) -> None:
        self._problem = problem
        self._network = network
        self._options = options
        self._harvest = harvest
        self._budget = budget
        self._random = np.random.default_rng(budget.seed)
        self._lower = problem.lower.astype(np.float32)
        self._upper = problem.upper.astype(np.float32)
        self._least = np.inf
        middle = ((problem.lower + problem.upper) / 2).astype(np.float32)
        margins, _ = self._margins(self._unborn(middle[None]))
        self._clauses, self._legs = np.argsort(margins[0], kind="stable"), 0
        self._elite = self._unborn(np.zeros((0, len(middle)), np.float32))

    def drawn(self) -> NDArray[np.float32] | None:
        """One of the points that lanes go on from, at random."""
        count = len(self._elite.points)
        return self._elite.points[self._random.integers(count)] if count else None

    def anew(self, number: int) -> SoftLanes:
        """A search that knows nothing of this one, with other random numbers."""
        budget = replace(self._budget, seed=self._budget.seed + number)
        return SoftLanes(self._problem, self._network, self._options, self._harvest, budget)

    @property
    def best(self) -> NDArray[np.float32]:
        """The best point after a leg, the box's middle before, flat."""
        points = self._elite.points
        return points[0] if len(points) else (self._lower + self._upper) / np.float32(2)

    def join(self, point: NDArray[np.float32]) -> None:
        """Let lanes go on from a point that another search found."""
        lane = self._unborn(point.reshape(1, -1).astype(np.float32))
        margins, _ = self._margins(lane)
        clause = margins.argmin(axis=1)
        self._select(replace(lane, clause=clause, margin=margins.min(axis=1)))

    def leg(self) -> None:
        """One descent of all lanes; ends early when the harvest is done or the budget ends."""
        options = self._options
        lanes = self._fresh()
        points, best = lanes.points, lanes.points.copy()
        margin, half = lanes.margin.copy(), (self._upper - self._lower) / 2
        momentum = np.zeros_like(points)
        rows = np.arange(len(points))
        for share in np.linspace(0.0, 1.0, options.steps).tolist():
            hardness = np.where(lanes.hard, 1.0, options.hardened**share)
            now = replace(
                lanes, points=points, softness=(lanes.softness * hardness).astype(np.float32)
            )
            margins, gradient = self._margins(now)
            own = margins[rows, lanes.clause]
            better = own < margin
            margin, best[better] = np.where(better, own, margin), points[better]
            if self._harvest.done or self._budget.expired:
                break
            size = np.abs(gradient).mean(axis=1, keepdims=True)
            momentum = options.momentum * momentum + gradient / (size + TINY)
            stride = options.stride[0] * (options.stride[1] / options.stride[0]) ** share
            step = np.float32(stride) * half * np.sign(momentum)
            points = np.clip(points - step, self._lower, self._upper)
        self._select(replace(lanes, points=best, margin=margin))

    def _margins(self, lanes: _Lanes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Margins and gradients; a point better than all before is handed on."""
        margins, gradient = self._network.margins(
            lanes.points, lanes.clause, lanes.softness, lanes.hard
        )
        least = margins.min(axis=1)
        place = int(least.argmin())
        if least[place] < self._least:
            self._least = float(least[place])
            self._harvest.take(lanes.points[place].astype(np.float64))
        return margins, gradient

    def _unborn(self, points: NDArray[np.float32]) -> _Lanes:
        """Lanes at these points with softness and hardness drawn at random."""
        count = len(points)
        low, high = np.log(self._options.softness)
        return _Lanes(
            points=points,
            clause=np.zeros(count, dtype=np.int64),
            softness=np.exp(self._random.uniform(low, high, count)).astype(np.float32),
            hard=self._random.random(count) < 0.5,
            margin=np.full(count, np.inf, dtype=np.float32),
        )

    def _fresh(self) -> _Lanes:
        """New lanes: at random points, and at disturbed best points with the widths found there."""
        options, random = self._options, self._random
        shape = options.lanes, len(self._lower)
        share = random.random(shape, dtype=np.float32)
        drawn = self._unborn(self._lower + share * (self._upper - self._lower))
        drawn = replace(drawn, clause=np.resize(self._aimed(), options.lanes))
        if not len(self._elite.points):
            drawn.points[0] = (self._lower + self._upper) / 2
            return drawn
        count = options.lanes // 2
        parent = self._elite.at(random.integers(len(self._elite.points), size=count))
        low, high = np.log(options.disturbed)
        thrown = random.random((count, shape[1])) < np.exp(random.uniform(low, high, (count, 1)))
        ends = np.where(random.random((count, shape[1])) < 0.5, self._lower, self._upper)
        changed = np.exp(random.normal(0, 0.3, count)).astype(np.float32)
        child = replace(
            parent,
            points=np.where(thrown, ends, parent.points).astype(np.float32),
            softness=parent.softness * changed,
            margin=np.full(count, np.inf, dtype=np.float32),
        )
        return child.and_(drawn.at(np.arange(count, options.lanes)))

    def _aimed(self) -> NDArray[np.int64]:
        """Clauses of the new lanes of a leg."""
        targets, (others, turn) = self._options.targets, divmod(self._legs, _OTHERS)
        self._legs += 1
        far = self._clauses[targets:]
        if turn < _OTHERS - 1 or not len(far):
            return self._clauses[:targets]
        return np.take(far, targets * others + np.arange(targets), mode="wrap")

    def _select(self, lanes: _Lanes) -> None:
        """Keep the best of these and those before, points of equal margin once only."""
        both = lanes.and_(self._elite)
        _, first = np.unique(both.margin, return_index=True)
        self._elite = both.at(first[: self._options.elite])


@dataclass(frozen=True)
class SoftDescent:
    """The descent alone; on other regions than boxes and on layers that pool, `ste-pgd`."""

    options: SoftDescentOptions = field(default_factory=SoftDescentOptions)
    name: str = "soft-descent"

    def attack_query(self, query: Query, budget: Budget) -> AttackOutcome:
        """See `QueryAttack`.

        Raises:
            OptionError: the network is not binarized; says why.
        """
        return searched(query, self.name, budget, self._search)

    def _search(
        self, problem: BinarizedProblem | None, harvest: Harvest, budget: Budget
    ) -> AttackOutcome | None:
        network = None if problem is None else soft_network(problem)
        if problem is None or network is None:
            return StraightThroughAttack(StraightThroughOptions()).attack_query(
                harvest.query, budget
            )
        lanes = SoftLanes(problem, network, self.options, harvest, budget)
        for _ in range(self.options.legs):
            if harvest.done or budget.expired:
                break
            lanes.leg()
        return None


def soft_descent(options: AttackOptions) -> SoftDescent:
    """The attack, with a user's sizes: `steps` of a leg, `restarts` as lanes."""
    sizes = SoftDescentOptions()
    return SoftDescent(
        replace(sizes, steps=options.steps or sizes.steps, lanes=options.restarts or sizes.lanes)
    )
