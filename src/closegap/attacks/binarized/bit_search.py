"""Local search among the signs of the first layer, many candidates at once.

The outputs depend on the input through the first layer's signs alone. A move pushes one sign over
and lets the sums follow; the layers behind are evaluated exactly. A lane takes the best of
its moves when the clause's score does not rise, so it drifts over plateaus, and starts again from a
disturbed incumbent when it finds nothing better for a while.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.binarized.moves import propose
from closegap.attacks.binarized.problem import BinarizedProblem, searched
from closegap.attacks.binarized.straight_through import (
    StraightThroughAttack,
    StraightThroughOptions,
    short_runs,
)
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.specs.query import Query

__all__ = ["BitLanes", "BitSearch", "BitSearchOptions", "bit_search"]

#: Products that one round may push through the network.
_ROUND_PRODUCTS = 1 << 29
#: Numbers that the sums of one round may take.
_ROUND_SUMS = 1 << 22


@dataclass(frozen=True)
class BitSearchOptions:
    """Sizes of the search.

    Attributes:
        lanes: searches side by side.
        moves: candidates of a lane in one round, at most.
        rounds: at most.
        patience: rounds without a better score before a lane starts again.
        disturbed: share of the inputs that a new start throws to a random end.
        targets: clauses attacked side by side, those of least margin first.
        warm: how the gradient runs before the search are made.
        leg: rounds, after which such runs from other points give half of the lanes new starts.
    """

    lanes: int = 8
    moves: int = 64
    rounds: int = 400
    patience: int = 25
    disturbed: float = 0.1
    targets: int = 3
    warm: StraightThroughOptions = field(default_factory=short_runs)
    leg: int = 50


@dataclass(frozen=True)
class BitSearch:
    """Searches from the best points of a short gradient attack."""

    options: BitSearchOptions = field(default_factory=BitSearchOptions)
    name: str = "bit-search"

    def attack_query(self, query: Query, budget: Budget) -> AttackOutcome:
        """See `QueryAttack`. On regions that are no boxes there is the gradient attack only.

        Raises:
            OptionError: the network is not binarized; says why.
        """
        return searched(query, self.name, budget, self._search)

    def _search(self, problem: BinarizedProblem | None, harvest: Harvest, budget: Budget) -> None:
        query, warm = harvest.query, StraightThroughAttack(self.options.warm)
        found = warm.attack_query(query, budget.within(budget.remaining / 4))
        harvest.add(found)
        if problem is not None and len(problem.free) and not harvest.done:
            search = BitLanes(problem, self.options, harvest, found.points, budget)
            for number in range(0, self.options.rounds, self.options.leg):
                search.run(min(self.options.leg, self.options.rounds - number))
                if harvest.done or budget.expired:
                    break
                other = replace(budget, seed=budget.seed + number + 1)
                found = warm.attack_query(query, other.within(budget.remaining / 4))
                harvest.add(found)
                search.join(found.points)


@dataclass(eq=False)
class _Lanes:
    """Where the searches are: points, sums, scores, rounds without a better score."""

    points: Float[np.ndarray, "L D"]
    sums: Float[np.ndarray, "L S"]
    score: Float[np.ndarray, "L"]
    least: Float[np.ndarray, "L"]
    idle: NDArray[np.int64]


class BitLanes:
    """The search on one query.

    Args:
        problem: the query.
        options: sizes.
        harvest: receives every point that is better than all before.
        starts: of the lanes, best first; the box's middle is one more.
        budget: deadline and seed.
    """

    def __init__(
        self,
        problem: BinarizedProblem,
        options: BitSearchOptions,
        harvest: Harvest,
        starts: NDArray[np.float32],
        budget: Budget,
    ) -> None:
        self._problem = problem
        self._harvest = harvest
        self._budget = budget
        self._random = np.random.default_rng(budget.seed)
        self._moves = _affordable(problem, options)
        self._options = options
        middle = (problem.lower + problem.upper) / 2
        flat = starts.reshape(len(starts), len(middle)).astype(np.float64)
        self._best = flat[0] if len(flat) else middle
        lanes = np.resize(
            np.vstack([middle[None], flat])[: options.lanes], (options.lanes, len(middle))
        )
        margins = problem.scores(problem.bits(problem.sums.at(self._best[None])))[0]
        self._least = float(margins.min())
        self._clause = np.resize(np.argsort(margins[0])[: options.targets], options.lanes)
        self._lanes = self._settled(lanes)

    def _settled(self, points: NDArray[np.float64]) -> _Lanes:
        sums = self._problem.sums.at(points)
        scores = self._problem.scores(self._problem.bits(sums))[1]
        score = scores[np.arange(len(points)), self._clause[: len(points)]]
        return _Lanes(points, sums, score, score.copy(), np.zeros(len(points), dtype=np.int64))

    def join(self, points: NDArray[np.float32]) -> None:
        """The half of the lanes that waits longest goes on from these points."""
        which = np.argsort(-self._lanes.idle, kind="stable")[: max(1, self._options.lanes // 2)]
        flat = points.reshape(len(points), -1).astype(np.float64)[: len(which)]
        if len(flat):
            self._place(which[: len(flat)], flat)
            margins = self._problem.scores(self._problem.bits(self._problem.sums.at(flat)))[0]
            least = margins.min(axis=1)
            if least.min() < self._least:
                self._least, self._best = float(least.min()), flat[least.argmin()]

    def run(self, rounds: int) -> None:
        """Rounds of moves until the harvest is done or the budget ends."""
        for _ in range(rounds):
            if self._harvest.done or self._budget.expired:
                return
            self._round()
            stuck = np.flatnonzero(self._lanes.idle >= self._options.patience)
            if len(stuck):
                self._restart(stuck)

    def _round(self) -> None:
        lanes, problem = self._lanes, self._problem
        owner = np.repeat(np.arange(len(lanes.points)), self._moves)
        moves = propose(problem, lanes.points[owner], lanes.sums[owner], self._random)
        margins, scores = problem.scores(problem.bits(moves.sums))
        self._keep(margins.min(axis=1), lanes.points, owner, moves.change)
        own = scores[np.arange(len(owner)), self._clause[owner]].reshape(len(lanes.points), -1)
        pick = own.argmin(axis=1)
        score = own[np.arange(len(pick)), pick]
        rows = np.arange(len(pick)) * self._moves + pick
        taken = np.flatnonzero(score <= lanes.score)
        changes = moves.change[rows[taken]].toarray()
        lanes.points[taken] += changes
        lanes.sums[taken] = moves.sums[rows[taken]]
        lanes.score[taken] = score[taken]
        better = lanes.score < lanes.least
        lanes.least = np.minimum(lanes.least, lanes.score)
        lanes.idle = np.where(better, 0, lanes.idle + 1)

    def _keep(
        self,
        margins: NDArray[np.float64],
        points: NDArray[np.float64],
        owner: NDArray[np.int64],
        change: csr_array,
    ) -> None:
        """Hand on the best candidate of a round where it is better than all before."""
        best = int(margins.argmin())
        if margins[best] < self._least or self._problem.query.prop.broken_by(float(margins[best])):
            self._least = min(self._least, float(margins[best]))
            self._best = points[owner[best]] + change[[best]].toarray()[0]
            self._harvest.take(self._best)

    def _restart(self, which: NDArray[np.int64]) -> None:
        """Those lanes begin again at the incumbent, with some inputs thrown to random ends."""
        problem = self._problem
        shape = len(which), len(problem.lower)
        thrown = self._random.random(shape) < self._options.disturbed
        ends = np.where(self._random.random(shape) < 0.5, problem.lower, problem.upper)
        self._place(which, np.where(thrown, ends, self._best))

    def _place(self, which: NDArray[np.int64], fresh: NDArray[np.float64]) -> None:
        problem, lanes = self._problem, self._lanes
        sums = problem.sums.at(fresh)
        scores = problem.scores(problem.bits(sums))[1][np.arange(len(which)), self._clause[which]]
        lanes.points[which], lanes.sums[which] = fresh, sums
        lanes.score[which] = lanes.least[which] = scores
        lanes.idle[which] = 0


def _affordable(problem: BinarizedProblem, options: BitSearchOptions) -> int:
    """Moves of a lane in one round: fewer where the network is large."""
    products = sum(p.weight.size * p.index.rows.shape[1] for p in problem.forward.layers)
    sums = problem.forward.network.first.patches.sums
    most = min(_ROUND_PRODUCTS // max(1, products), _ROUND_SUMS // sums) // options.lanes
    return int(np.clip(most, 1, options.moves))


def bit_search(options: AttackOptions) -> BitSearch:
    """The search, with a user's sizes: `steps` as rounds, `restarts` as lanes."""
    sizes = BitSearchOptions()
    return BitSearch(
        replace(sizes, rounds=options.steps or sizes.rounds, lanes=options.restarts or sizes.lanes)
    )
