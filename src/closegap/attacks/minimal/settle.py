"""The last of a least distance: a counterexample's own linear region, and the regions beside it.

In a small box around a counterexample few phases are open. The nearest broken point of each linear
region is a program there, and its multipliers name the walls behind which a nearer one may lie. At
that point the margin is zero, and no replay would count it: bisection goes from a point that is
broken by enough to as near as the replay accepts. What searches keep between themselves and the
boundary, so that their points survive, is won back here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.attacks.activation.programs import DistanceProgram, Goal, Ground, distance_program
from closegap.attacks.activation.programs.lazy import nearest_walls
from closegap.attacks.activation.region import RegionProblem, region_problem
from closegap.attacks.activation.walk import Place, Walk
from closegap.attacks.minimal.attack import room_of
from closegap.attacks.minimal.lanes import Best, build_lanes
from closegap.attacks.minimal.polish import Polish
from closegap.core.budget import Budget
from closegap.core.numerics import DISTANCE_STEP, DISTANCE_TOLERANCE, FLOAT32_UNIT, REPLAY_SLACK
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery
from closegap.specs.region import Box

__all__ = ["Settling", "kept_for_settling"]

#: Of the time, and in seconds, what is left for the end, at most.
_SHARE, _SECONDS = 0.02, 0.5
#: Of many counterexamples, those are left out that are farther than the nearest by this share.
_FARTHER = 0.25
#: Of the way back to a point that counts, the first try; the next is so many times as far.
_FIRST_SHARE, _GROWTH = 2.0**-12, 4.0


def kept_for_settling(budget: Budget) -> Budget:
    """A budget that ends a little earlier, so that time is left for what was found."""
    seconds = budget.remaining
    if math.isinf(seconds):
        return budget
    return budget.within(seconds - min(_SHARE * seconds, _SECONDS))


@dataclass(frozen=True)
class Settling:
    """Sizes of the search.

    Attributes:
        reach: how far any input may move at first; twice as far once the point comes to an end.
        least: no less; the reach is quartered where too many phases are open.
        units: open phases at most.
        rounds: boxes at most.
        overshoots: by how much a point is broken from which bisection begins, in multiples of what
            the replay's two evaluations may differ by.
        halvings: points tried on the way to the region's nearest one.
        walk: from region to region.
        seconds: for one counterexample.
    """

    reach: float = 0.005
    least: float = DISTANCE_TOLERANCE
    units: int = 400
    rounds: int = 8
    overshoots: tuple[float, ...] = (16.0, 1.0)
    halvings: int = 20
    walk: Walk = field(default_factory=lambda: Walk(single=3))
    seconds: float = 1.0

    def run(self, query: DistanceQuery, known: Nearest, budget: Budget, judge: OnNearer) -> Nearest:
        """The nearest counterexample of the linear regions at a known one; never a farther one.

        Of distances that are whole numbers, one with pixels put back as long as some can be.

        Args:
            query: whose counterexamples.
            known: one of them, which counted; or none.
            budget: its deadline.
            judge: says of a point whether it counts.
        """
        clean = query.objective.norm is not None and not known.distance > 0
        if known.point is None or clean or budget.expired:
            return known
        if query.objective.integral:
            return _thinned(query, known, budget, judge)
        search = _Search(self, query, known, budget.within(self.seconds), judge)
        reach = self.reach
        for _ in range(self.rounds):
            before, problem = search.best, search.problem(reach)
            if problem is None:
                reach /= 4
                if reach < self.least or budget.expired:
                    break
                continue
            search.settle(problem)
            if not search.gained(before, reach):
                return search.best
            reach *= 2
        search.bisect(query.center, search.flat)
        return search.best

    def each(
        self, query: DistanceQuery, known: Sequence[Nearest], budget: Budget, judge: OnNearer
    ) -> tuple[Nearest, ...]:
        """Many counterexamples, the nearest first, as far as the time goes; nearest first again.

        Of distances that are whole numbers they stay as they are: attacks put pixels back.
        """
        ranked = sorted((n for n in known if n.found), key=lambda nearest: nearest.distance)
        if query.objective.integral:
            return tuple(ranked)
        found = []
        for nearest in ranked:
            far = ranked[0].distance + _FARTHER * abs(ranked[0].distance)
            left = budget.expired or nearest.distance > far
            found.append(nearest if left else self.run(query, nearest, budget, judge))
        return tuple(sorted(found, key=lambda nearest: nearest.distance))


class _Search:
    """One counterexample's search."""

    def __init__(
        self,
        options: Settling,
        query: DistanceQuery,
        known: Nearest,
        budget: Budget,
        judge: OnNearer,
    ) -> None:
        self.best = known
        self._options = options
        self._query = query
        self._budget = budget
        self._judge = judge

    @property
    def flat(self) -> NDArray[np.float64]:
        """The nearest counterexample."""
        assert self.best.point is not None
        return self.best.point.reshape(-1).astype(np.float64)

    def problem(self, reach: float) -> RegionProblem | None:
        """The regions of the box around it; `None` where there are too many, or no such regions."""
        assert self.best.point is not None
        point = self.best.point.astype(np.float64)
        box = Box(np.maximum(point - reach, 0.0), np.minimum(point + reach, 1.0))
        found = region_problem(replace(self._query.anywhere(), region=box), self._budget)
        return None if found is None or found.units.units > self._options.units else found

    def gained(self, before: Nearest, reach: float) -> bool:
        """Whether the point came nearer, and to an end of the box, where more may be gained."""
        assert before.point is not None and self.best.point is not None
        moved = float(np.abs(self.best.point - before.point).max(initial=0.0))
        nearer = self.best.distance < before.distance - DISTANCE_STEP * abs(before.distance)
        return nearer and moved > (1 - DISTANCE_STEP) * reach / 2

    def settle(self, problem: RegionProblem) -> None:
        """From region to region while their nearest points come nearer; then as near as counts."""
        budget, flat = self._budget, self.flat
        ground = Ground(problem.ground.lower, problem.ground.upper, self._query.center)
        program = distance_program(self._query.objective, ground)
        clause = int(np.argmin(problem.margins(flat)))
        goal = problem.goals[clause]
        cell = problem.units.cell(problem.units.phase(flat))
        first = program.least_distance(cell, goal, 0.0, nearest_walls(cell, flat), budget)
        if first is None:
            return
        places: list[Place] = []
        self._options.walk.run(
            problem,
            clause,
            Place(cell, first),
            lambda cell, near: program.least_distance(cell, goal, 0.0, near, budget),
            budget,
            partial(_kept, places),
        )
        slack = REPLAY_SLACK * (1 + float(np.abs(problem.units.outputs(flat)).max()))
        for place in reversed(places):
            if self._approach(program, goal, place, slack):
                return
        self.bisect(first.point, flat)

    def _approach(self, program: DistanceProgram, goal: Goal, place: Place, slack: float) -> bool:
        """Towards a region's nearest point, along its nearest points that are broken by more."""
        for overshoot in self._options.overshoots:
            if self._budget.expired:
                return False
            margin = -overshoot * slack
            broken = program.least_distance(place.cell, goal, margin, place.walls, self._budget)
            if broken is not None and self.bisect(place.answer.point, broken.point):
                return True
        return False

    def bisect(self, near: Float[np.ndarray, "D"], far: Float[np.ndarray, "D"]) -> bool:
        """As near as counts, on the way to a far point that may count; True iff one does.

        The first tries are at the near point, then next to it, each a few times as far as the last.
        """
        if not self._distance(near) < self.best.distance:
            return False
        if self._offer(near):
            return True
        won, low, high, share = False, 0.0, 1.0, _FIRST_SHARE
        span = abs(self._distance(far) - self._distance(near))
        for _ in range(self._options.halvings):
            least = FLOAT32_UNIT * abs(self.best.distance)
            if self._budget.expired or not (high - low) * span > least:
                break
            point = near + share * (far - near)
            nearer = self._distance(point) < self.best.distance
            if nearer and not self._offer(point):
                low = share
            else:
                won, high = won or nearer, share
            share = _GROWTH * low if _GROWTH * low < high == 1.0 else (low + high) / 2
        return won

    def _rounded(self, point: Float[np.ndarray, "D"]) -> NDArray[np.float32]:
        shape = self._query.network.input_shape
        rounded: NDArray[np.float32] = np.clip(point, 0.0, 1.0).astype(np.float32).reshape(shape)
        return rounded

    def _distance(self, point: Float[np.ndarray, "D"]) -> float:
        return self._query.distance(self._rounded(point))

    def _offer(self, point: Float[np.ndarray, "D"]) -> bool:
        rounded = self._rounded(point)
        distance = self._query.distance(rounded)
        if not self._judge(rounded, distance):
            return False
        self.best = Nearest(distance, rounded)
        return True


def _kept(places: list[Place], place: Place) -> bool:
    places.append(place)
    return False


def _thinned(query: DistanceQuery, known: Nearest, budget: Budget, judge: OnNearer) -> Nearest:
    """With as many pixels put back as the margin allows, lowered again on those that stay."""
    assert known.point is not None
    network = compiled(query.network, torch.float32)
    lanes = build_lanes(network, [query], 1, room_of(network, budget))
    point = network.tensor(known.point.reshape(1, -1)).float()
    began = Best(point, torch.full_like(lanes.slack, known.distance))
    found = Polish().run(lanes, began, 0.0, budget)
    thin = found.points[0].cpu().numpy().reshape(query.network.input_shape)
    distance = query.distance(thin)
    if distance < known.distance and judge(thin, distance):
        return Nearest(distance, thin)
    return known
