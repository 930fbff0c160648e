"""What the searches of one attack share: the pool, the harvest, the clock, and the polish."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.activation.region import RegionProblem
from closegap.attacks.activation.walk import Walk, visit
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.starts import GivenStart
from closegap.attacks.outcome import AttackOutcome
from closegap.attacks.pool import Candidate, CandidatePool
from closegap.core.budget import Budget
from closegap.runtime.cache import compiled
from closegap.specs.query import Query

__all__ = ["Arena", "Finds", "Polish", "Start"]

#: Share of the units in which candidates differ that are not of the same minimum.
_APART = 0.05


@dataclass(frozen=True)
class Polish:
    """What every find goes through before the pool.

    Attributes:
        steps: gradient steps from it.
        lanes: one from the find, the others from near it.
        step_size: of the first step, as a share of the region.
        walk: how the region walk goes on from the best of them.
    """

    steps: int = 20
    lanes: int = 6
    step_size: float = 0.1
    walk: Walk = field(default_factory=Walk)


@dataclass(frozen=True, eq=False)
class Start:
    """A candidate, as searches want it.

    Attributes:
        point: flat, float64.
        clause: the one that is nearest to breaking there.
        margin: of that clause.
        pattern: its units' phases.
    """

    point: Float[np.ndarray, "D"]
    clause: int
    margin: float
    pattern: NDArray[np.bool_]


class Arena:
    """One query under attack. Every method may be called from any thread.

    Args:
        problem: the query in units.
        harvest: keeps and judges what is found.
        budget: deadline and seed.
        capacity: of the pool.
        polish: what finds go through.

    Attributes:
        pool: the best candidates, of distinct patterns of units.
        finished: some search has looked at every part of the region.
    """

    def __init__(
        self,
        problem: RegionProblem,
        harvest: Harvest,
        budget: Budget,
        capacity: int,
        polish: Polish,
    ) -> None:
        self.problem = problem
        self.budget = budget
        self.pool = CandidatePool(problem.units.phases, capacity=capacity)
        self.finished = False
        self._harvest = harvest
        self._polish = polish
        self._network = compiled(harvest.query.network, torch.float32)
        self._lock = threading.RLock()
        self._draws = 0

    @property
    def query(self) -> Query:
        """What is attacked, on the original network."""
        return self._harvest.query

    @property
    def done(self) -> bool:
        """True iff there is nothing left to do, or no time."""
        return self._harvest.done or self.finished or self.budget.expired

    def random(self) -> np.random.Generator:
        """A generator of its own for one search; the seeds follow the order of the calls."""
        with self._lock:
            self._draws += 1
            return np.random.default_rng((self.budget.seed, self._draws))

    def offer(self, points: Float[np.ndarray, "M D"]) -> float:
        """Judge flat points and pool them.

        Returns:
            the least margin of them; infinity where none could be moved into the region.
        """
        with self._lock:
            margins = [np.inf if self._harvest.done else self._harvest.take(p) for p in points]
        self.pool.add(points.astype(np.float32), np.asarray(margins), engine="bab-attack")
        return min(margins, default=np.inf)

    def add(self, outcome: AttackOutcome) -> None:
        """Judge and pool what another attack found, if it had the time to find anything."""
        if not len(outcome.points):
            return
        with self._lock:
            self._harvest.add(outcome.best_of(1))
        flat = outcome.points.reshape(len(outcome.points), -1)
        self.pool.add(flat, outcome.margins, engine=outcome.method)

    def note(self, text: str) -> None:
        """Say something to the user, once."""
        with self._lock:
            self._harvest.note(text)

    def starts(self, count: int) -> tuple[Start, ...]:
        """The best candidates that are not near one another."""
        return tuple(self.start(candidate) for candidate in self.elites(count))

    def elites(self, count: int) -> tuple[Candidate, ...]:
        """The best candidates that differ in a share of the units."""
        return self.pool.apart(count, round(_APART * self.problem.units.units))

    def start(self, candidate: Candidate) -> Start:
        """A candidate of the pool, with the clause it is nearest to breaking."""
        point = candidate.point.astype(np.float64)
        margins = self.problem.margins(point)
        clause = int(np.argmin(margins))
        return Start(point, clause, float(margins[clause]), candidate.pattern)

    def polish(self, points: Float[np.ndarray, "M D"]) -> None:
        """Descend from points, then walk from cell to cell from the best."""
        if not len(points) or self.done:
            return
        self.offer(points)
        shape = self.query.network.input_shape
        given = points.astype(np.float32).reshape(-1, *shape)
        descent = Descent(
            "polish",
            start=GivenStart({0: given}),
            steps=self._polish.steps,
            restarts=max(self._polish.lanes, len(points)),
            step_size=self._polish.step_size,
            last_step=self._polish.step_size / 30,
        )
        outcome = run(self._network, [self.query], descent, self._seeded())[0]
        self.add(outcome)
        if len(outcome.points):
            self.walk(outcome.points[0].reshape(-1).astype(np.float64))

    def walk(self, point: Float[np.ndarray, "D"]) -> None:
        """From cell to cell, as long as the nearest clause's margin falls."""
        problem = self.problem
        clause = int(np.argmin(problem.margins(point)))
        first = visit(problem, clause, point, problem.radius, self.budget)
        if first is None or self.done:
            return
        optimum = problem.lowering(clause, problem.radius, self.budget)
        last = self._polish.walk.run(
            problem, clause, first, optimum, self.budget, lambda _: self.done
        )
        self.offer(last.answer.point[None])

    def _seeded(self) -> Budget:
        with self._lock:
            self._draws += 1
            return replace(self.budget, seed=self.budget.seed + self._draws)


class Finds:
    """What the search of one part came through.

    Points that are no better than what is known are polished too: most of what pays is behind
    them, for they lie where no gradient led.

    Args:
        arena: judges them.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._found: list[tuple[float, Float[np.ndarray, "D"]]] = []

    def offer(self, point: Float[np.ndarray, "D"]) -> None:
        """Judge a flat point, and keep it."""
        self._found.append((self._arena.offer(point[None]), point))

    def polish(self, count: int) -> None:
        """Descend from the best of them."""
        best = sorted(self._found, key=lambda found: found[0])[:count]
        if best:
            self._arena.polish(np.stack([point for _, point in best]))
