"""The region walk: dual-guided walks from many starts, the best of them disturbed and walked again.

Some rounds start from short output-diversified gradient runs, which find basins; the others from
the best optima so far with a share of the inputs thrown to the ends of the region, which finds
neighbouring ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.activation.cells import cell_key
from closegap.attacks.activation.harvest import Harvest, OnCandidate, harvested
from closegap.attacks.activation.region import UNSUITED, RegionProblem, region_problem
from closegap.attacks.activation.walk import Place, Walk, visit
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack
from closegap.attacks.outcome import AttackOutcome
from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.runtime.cache import compiled
from closegap.specs.query import Query

__all__ = ["RegionWalk", "RegionWalkAttack", "RegionWalkOptions", "region_walk"]


@dataclass(frozen=True)
class RegionWalkOptions:
    """Sizes of the search.

    Attributes:
        rounds: of starts; the first and every third after it are gradient runs.
        steps: gradient steps of a run.
        restarts: runs a round.
        starts: of a gradient round, so many of the best are walked from.
        kept: optima that are disturbed.
        shares: of the inputs that a disturbance throws to the region's ends.
        walk: how a walk goes on.
    """

    rounds: int = 12
    steps: int = 15
    restarts: int = 16
    starts: int = 4
    kept: int = 3
    shares: tuple[float, ...] = (0.03, 0.1, 0.3)
    walk: Walk = field(default_factory=Walk)


class RegionWalkAttack:
    """Walks between activation cells.

    Args:
        options: see `RegionWalkOptions`.
    """

    name = "region-walk"

    def __init__(self, options: RegionWalkOptions | None = None) -> None:
        self.options = RegionWalkOptions() if options is None else options

    def attack_query(
        self,
        query: Query,
        budget: Budget,
        bounds: NetworkBounds | None = None,
        starts: Sequence[NDArray[np.floating]] = (),
        judge: OnCandidate | None = None,
    ) -> AttackOutcome:
        """Attack one query.

        Networks that are not piecewise linear, or too large to be written densely, get a gradient
        run only.

        Args:
            query: what to break.
            budget: deadline and seed.
            bounds: of the activations' inputs over the region, if known.
            starts: points to walk from first; without any, a gradient run comes before all else.
            judge: see `Harvest`.

        Returns:
            the best candidates, all inside the region.

        Raises:
            AttackInterrupted: Ctrl-C, with what was found until then.
        """

        def search(harvest: Harvest) -> None:
            if not len(starts):
                harvest.add(_gradient_runs(self.options, query, budget, 0))
            problem = None if harvest.done else region_problem(query, budget, bounds)
            if problem is None and not (harvest.done or budget.expired):
                harvest.note(UNSUITED)
            if problem is not None and problem.units.units:
                _Search(self.options, problem, harvest, budget).run(starts)

        return harvested(query, self.name, budget, search, judge)


def _gradient_runs(
    options: RegionWalkOptions, query: Query, budget: Budget, round_: int
) -> AttackOutcome:
    method = Descent(
        "ods-pgd", steps=options.steps, restarts=options.restarts, diversify=options.steps // 3
    )
    seeded = replace(budget, seed=budget.seed + round_)
    return run(compiled(query.network, torch.float32), [query], method, seeded)[0]


class _Search:
    """Rounds of walks on one query."""

    def __init__(
        self, options: RegionWalkOptions, problem: RegionProblem, harvest: Harvest, budget: Budget
    ) -> None:
        self._options = options
        self._problem = problem
        self._harvest = harvest
        self._budget = budget
        self._random = np.random.default_rng(budget.seed)
        self._optima: list[tuple[float, NDArray[np.float64]]] = []
        self._entered: set[tuple[int, bytes]] = set()

    def run(self, starts: Sequence[NDArray[np.floating]]) -> None:
        """Walk until the harvest is done, the budget ends or the rounds are over."""
        for point in starts:
            self._walk(point.reshape(-1).astype(np.float64))
        for round_ in range(self._options.rounds):
            for point in self._starts(round_):
                if self._harvest.done or self._budget.expired:
                    return
                self._walk(point)

    def _starts(self, round_: int) -> Iterator[NDArray[np.float64]]:
        if round_ % 3 and self._optima:
            yield from self._disturbed()
            return
        found = _gradient_runs(self._options, self._harvest.query, self._budget, round_)
        self._harvest.add(found.best_of(1))
        for point in found.points[: self._options.starts]:
            yield point.reshape(-1).astype(np.float64)

    def _disturbed(self) -> Iterator[NDArray[np.float64]]:
        """The best optima, with some inputs at an end of the region chosen by a coin."""
        self._optima.sort(key=lambda entry: entry[0])
        del self._optima[self._options.kept :]
        ground = self._problem.ground
        for _, point in list(self._optima):
            for share in self._options.shares:
                thrown = self._random.random(len(point)) < share
                ends = np.where(self._random.random(len(point)) < 0.5, ground.lower, ground.upper)
                yield self._problem.inside(np.where(thrown, ends, point))

    def _walk(self, point: Float[np.ndarray, "D"]) -> None:
        """Walk from one start, towards the clause that is nearest to breaking there."""
        problem, budget = self._problem, self._budget
        clause = int(np.argmin(problem.margins(point)))
        key = clause, cell_key(problem.units.phase(point))
        if key in self._entered:
            return
        self._entered.add(key)
        start = visit(problem, clause, point, problem.radius, budget)
        if start is None:
            return
        optimum = problem.lowering(clause, problem.radius, budget)
        last = self._options.walk.run(problem, clause, start, optimum, budget, self._on_place)
        self._harvest.take(last.answer.point)
        self._optima.append((last.answer.value, last.answer.point))

    def _on_place(self, place: Place) -> bool:
        if self._harvest.query.prop.broken_by(place.answer.value):
            self._harvest.take(place.answer.point)
        return self._harvest.done


def region_walk(options: AttackOptions | None = None) -> RegionWalkAttack:
    """The walk, with a user's sizes: `steps` of a gradient run, `restarts` as rounds of starts."""
    chosen = options or AttackOptions()
    sizes = RegionWalkOptions()
    return RegionWalkAttack(
        replace(
            sizes,
            steps=chosen.steps or sizes.steps,
            rounds=chosen.restarts or sizes.rounds,
        )
    )


#: `RegionWalk(net, eps=0.1)(images, labels)`: adversarial images.
RegionWalk = ImageAttack(region_walk)
