"""The nearest counterexample: walks between cells while the ball around the image shrinks.

Within the best distance so far the walk lowers the margin; once a cell breaks the property, the
cell's nearest point that does is the new best distance, and the walk goes on from there in the
smaller ball. Source: Croce and Hein's region programs (2018), with walks in place of random cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.activation.programs.lazy import nearest_walls
from closegap.attacks.activation.region import RegionProblem, region_problem
from closegap.attacks.activation.walk import Place, Walk, visit
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.loop import run
from closegap.core.budget import Budget
from closegap.core.numerics import DISTANCE_STEP, REPLAY_SLACK
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery

__all__ = ["Nearest", "NearestAttack", "OnNearer"]

#: Told of a float32 point and its distance; True iff it is a counterexample.
OnNearer: TypeAlias = Callable[[NDArray[np.float32], float], bool]

#: A cell's nearest point is asked to break the property by the replay's slack times these.
_OVERSHOOTS = (1.0, 4.0, 16.0)
#: The first ball that is searched is no smaller.
_LEAST_RADIUS = 1 / 255
#: The bounds of the activations are made anew once the ball has shrunk to this share.
_SHRUNK = 0.7


@dataclass(frozen=True)
class NearestAttack:
    """Sizes of the search.

    Attributes:
        rounds: of starts.
        patience: rounds without a nearer point after which the search ends.
        steps: gradient steps of a start.
        restarts: gradient runs for each target.
        starts: of a round's runs, so many are walked from.
        shares: of the inputs that a disturbance of the best point throws to the ball's ends.
        walk: how a walk goes on.
    """

    rounds: int = 10
    patience: int = 2
    steps: int = 25
    restarts: int = 2
    starts: int = 6
    shares: tuple[float, ...] = (0.03, 0.1, 0.3)
    walk: Walk = field(default_factory=Walk)

    def run(
        self,
        query: DistanceQuery,
        budget: Budget,
        judge: OnNearer,
        starts: Sequence[NDArray[np.float32]] = (),
    ) -> Nearest:
        """Search until the budget ends or the rounds are over.

        Args:
            query: whose counterexamples.
            budget: deadline and seed.
            judge: says of a point whether it counts.
            starts: counterexamples that are known, each walked from; without any, gradient runs in
                growing balls look for the first.

        Returns:
            the nearest point that counted.
        """
        search = _Search(self, query, budget, judge)
        for point in starts:
            search.offer(point)
        for point in starts:
            search.descend(point.reshape(-1).astype(np.float64))
        search.first()
        idle = 0
        for round_ in range(self.rounds if search.best.found else 0):
            before = search.best.distance
            search.round(round_)
            idle = 0 if search.best.distance < before * (1 - DISTANCE_STEP) else idle + 1
            if budget.expired or idle >= self.patience:
                break
        return search.best

    def improve(
        self, query: DistanceQuery, point: NDArray[np.float32], budget: Budget, judge: OnNearer
    ) -> Nearest:
        """Walk from one counterexample only."""
        search = _Search(self, query, budget, judge)
        search.offer(point)
        if search.best.found:
            search.descend(point.reshape(-1).astype(np.float64))
        return search.best


@dataclass(frozen=True, eq=False)
class Nearest:
    """A counterexample.

    Attributes:
        distance: from the image, rounded up; infinity where none was found.
        point: float32, in the network's input shape.
    """

    distance: float = math.inf
    point: NDArray[np.float32] | None = None

    @property
    def found(self) -> bool:
        """Whether there is one."""
        return self.point is not None


class _Search:
    """One query's search."""

    def __init__(
        self, options: NearestAttack, query: DistanceQuery, budget: Budget, judge: OnNearer
    ) -> None:
        self.best = Nearest()
        self._options = options
        self._query = query
        self._budget = budget
        self._judge = judge
        self._random = np.random.default_rng(budget.seed)
        self._problem: RegionProblem | None = None
        self._reach = math.inf
        network = compiled(query.network, torch.float32)
        with torch.no_grad():
            outputs = network(network.tensor(query.image.reshape(1, *query.network.input_shape)))
        self._slack = REPLAY_SLACK * (1 + float(outputs.abs().max()))

    def offer(self, point: Float[np.ndarray, "..."]) -> bool:
        """Judge a point; True iff it is nearer than the best and counts."""
        clipped = np.clip(point, 0.0, 1.0).astype(np.float32)
        image = clipped.reshape(self._query.network.input_shape)
        distance = self._query.distance(image)
        if distance < self.best.distance and self._judge(image, distance):
            self.best = Nearest(distance, image)
            return True
        return False

    def first(self) -> None:
        """Gradient attacks in growing balls until one finds a counterexample."""
        image = self._query.image
        farthest = self._query.distance(np.where(image < 0.5, 1.0, 0.0))
        radius = min(self._estimate(), farthest)
        while not (self.best.found or self._budget.expired):
            for point in self._gradient(radius, 0):
                self.offer(point)
            if radius >= farthest:
                return
            radius = min(2 * radius, farthest)

    def _estimate(self) -> float:
        """Where the margin would end if it fell as steeply as at the image."""
        query = self._query.within(0.0)
        network = compiled(query.network, torch.float64)
        image = network.tensor(self._query.image.reshape(1, *query.network.input_shape))
        leaf = image.requires_grad_()
        rows = network(leaf) @ network.tensor(query.prop.rows).T
        worst = rows[0].argmin()
        (gradient,) = torch.autograd.grad(rows[0, worst], leaf)
        dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self._query.norm]
        steepness = float(torch.linalg.vector_norm(gradient, dual))
        margin = float(rows[0, worst].detach())
        return max(margin / steepness, _LEAST_RADIUS) if steepness > 0 else 1.0

    def _gradient(self, radius: float, round_: int) -> NDArray[np.float32]:
        query = self._query.within(radius)
        options = self._options
        method = Descent(
            "mt-pgd",
            steps=options.steps,
            targets=4,
            restarts=options.restarts,
            diversify=3,
        )
        seeded = replace(self._budget, seed=self._budget.seed + round_)
        (outcome,) = run(compiled(query.network, torch.float32), [query], method, seeded)
        return outcome.points[: options.starts]

    def round(self, round_: int) -> None:
        """Walk from the best point, from gradient runs in its ball, from disturbances of it."""
        for point in self._starts(round_):
            if self._budget.expired:
                return
            self.offer(point)
            self.descend(point)

    def _starts(self, round_: int) -> Iterator[NDArray[np.float64]]:
        if round_ == 0:
            yield self._flat_best()
        for point in self._gradient(self.best.distance, round_):
            yield point.reshape(-1).astype(np.float64)
        for share in self._options.shares:
            problem = self._prepared()
            if problem is None:
                return
            point, ground = self._flat_best(), problem.ground
            thrown = self._random.random(len(point)) < share
            ends = np.where(self._random.random(len(point)) < 0.5, ground.lower, ground.upper)
            yield np.where(thrown, ends, point)

    def _flat_best(self) -> NDArray[np.float64]:
        assert self.best.point is not None
        return self.best.point.reshape(-1).astype(np.float64)

    def _prepared(self) -> RegionProblem | None:
        """Units and programs in the best distance's ball, made anew when it shrinks a lot."""
        if self._problem is None or self.best.distance < _SHRUNK * self._reach:
            self._reach = self.best.distance
            self._problem = region_problem(self._query.within(self._reach), self._budget)
        return self._problem

    def descend(self, point: Float[np.ndarray, "D"]) -> None:
        """Walk from a point; every cell that breaks the property shrinks the ball."""
        problem = self._prepared()
        if problem is None or not problem.units.units:
            return
        radius = self._radius()
        start = _drawn(problem, point, radius)
        clause = int(np.argmin(problem.margins(start)))
        place = visit(problem, clause, start, radius, self._budget)
        while place is not None and not self._budget.expired:
            optimum = problem.lowering(clause, radius, self._budget)
            place = self._options.walk.run(
                problem, clause, place, optimum, self._budget, self._broken
            )
            if not self._shrink(problem, clause, place):
                return
            radius = self._radius()
            answer = problem.lowering(clause, radius, self._budget)(place.cell, place.walls)
            place = None if answer is None else Place(place.cell, answer)

    def _radius(self) -> float:
        return self.best.distance * (1 - DISTANCE_STEP)

    def _broken(self, place: Place) -> bool:
        return place.answer.value < -self._slack

    def _shrink(self, problem: RegionProblem, clause: int, place: Place) -> bool:
        """The cell's nearest point that breaks the property, if it is nearer than the best."""
        if place.answer.value >= 0:
            return False
        for overshoot in _OVERSHOOTS:
            margin = -overshoot * self._slack
            near = nearest_walls(place.cell, place.answer.point)
            found = problem.program.least_distance(
                place.cell, problem.goals[clause], margin, near, self._budget
            )
            if found is None:
                return False
            if self.offer(found.point):
                return True
        return False


def _drawn(
    problem: RegionProblem, point: Float[np.ndarray, "D"], radius: float
) -> Float[np.ndarray, "D"]:
    """The point drawn towards the center until the smaller ball holds it."""
    reach = problem.program.distance(point)
    center = problem.ground.center
    share = min(1.0, radius / reach) if reach > 0 else 1.0
    return np.asarray(center + share * (point - center))
