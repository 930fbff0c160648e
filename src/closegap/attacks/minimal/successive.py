"""Successive programs: the distance itself, under the margin's plane at the last point.

For distances that are no norm the steps of gradient attacks know nothing of what they cost. Here
every round solves for the point of least distance on the broken side of the plane. Until a broken
point is known, the search goes a part of the way there; afterwards it goes to nearer broken points
only, and a box around the last one widens and narrows with success.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.attacks.minimal.lanes import Lanes, build_lanes, evaluate, lanes_of, margins
from closegap.attacks.minimal.variation import VariationProgram
from closegap.core.budget import Budget
from closegap.core.numerics import DISTANCE_STEP
from closegap.encode.distances import distance_over
from closegap.mip.model import Model, SolveOptions
from closegap.mip.registry import choose
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import L1TvDistance
from closegap.specs.region import Box

__all__ = ["SuccessivePrograms", "linear_program"]

#: Of the time that is left, what one lane may take.
_SHARE = 0.5

#: `(slope, limit, box, begin, budget) -> x` of least distance in a box with `slope . x <= limit`.
_Program: TypeAlias = Callable[
    [NDArray[np.float64], float, Box, NDArray[np.float64], Budget], NDArray[np.float64] | None
]


@dataclass(frozen=True)
class SuccessivePrograms:
    """Sizes of the search.

    Attributes:
        rounds: programs of one lane.
        classes: wrong classes that are aimed at from the image, nearest margins first.
        step: of the way to the program's point, how far a lane goes that is not broken.
        scales: of the program's difference from the image, tried for a broken point.
        mixed: shares of the last broken point, mixed into the program's.
        reach: how far a broken lane's input may move at first.
        wider: times the reach, after a round that found a nearer point.
        narrower: times the reach, after one that did not.
        least: reach, where a lane ends.
    """

    rounds: int = 24
    classes: int = 2
    step: float = 0.5
    scales: tuple[float, ...] = (1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.5, 3.0)
    mixed: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    reach: float = 0.5
    wider: float = 1.5
    narrower: float = 0.4
    least: float = 1e-3

    def run(
        self,
        query: DistanceQuery,
        budget: Budget,
        judge: OnNearer,
        starts: Sequence[NDArray[np.float32]] = (),
    ) -> Nearest:
        """Search from the image, and from points that are broken.

        Args:
            query: of any distance that a linear program can write.
            budget: deadline.
            judge: says of a point whether it counts.
            starts: broken points.
        """
        network = compiled(query.network, torch.float32)
        aimed = build_lanes(network, [query], 1 + self.classes, len(self.scales))
        program, best = _program(query), Nearest()

        def offer(point: Float[np.ndarray, "D"]) -> None:
            nonlocal best
            shaped = point.astype(np.float32).reshape(query.network.input_shape)
            distance = query.distance(shaped)
            if distance < best.distance and judge(shaped, distance):
                best = Nearest(distance, shaped)

        begins = [(0, point.reshape(-1).astype(np.float64)) for point in starts]
        begins += [(lane, query.center) for lane in range(1, 1 + self.classes)]
        for lane, point in begins:
            lanes = lanes_of(aimed, torch.tensor([lane]))
            spend = budget.within(_SHARE * budget.remaining)
            self._descend(query, lanes, point, program, spend, offer)
        return best

    def _descend(
        self,
        query: DistanceQuery,
        lanes: Lanes,
        point: Float[np.ndarray, "D"],
        program: _Program,
        budget: Budget,
        offer: Callable[[Float[np.ndarray, "D"]], None],
    ) -> None:
        """Offer nearer and nearer broken points; others are not gone to."""
        image, reach, last = query.center, self.reach, math.inf
        for _ in range(self.rounds):
            if budget.expired or reach < self.least:
                break
            seen = evaluate(lanes, torch.from_numpy(point.astype(np.float32))[None])
            slope = seen.gradient[0].numpy().astype(np.float64)
            gap = float(seen.losses[0] + 2 * lanes.slack[0])
            if bool(seen.margins[0] < -lanes.slack[0]):
                last = min(last, query.distance(point))
                offer(point)
            near = reach if math.isfinite(last) else 1.0
            box = Box(np.maximum(point - near, 0.0), np.minimum(point + near, 1.0))
            answer = program(slope, float(slope @ point) - gap, box, point, budget)
            if answer is None:  # the box ends before the plane
                reach *= self.wider
                point = point if math.isfinite(last) else image + (point - image) / 2
                continue
            trial = self._nearer(query, lanes, point, answer, last)
            if trial is not None:
                point, reach = trial, reach * self.wider
            elif math.isfinite(last):
                reach *= self.narrower
            else:
                point = point + self.step * (answer - point)
        if math.isfinite(last):
            offer(point)

    def _nearer(
        self,
        query: DistanceQuery,
        lanes: Lanes,
        point: Float[np.ndarray, "D"],
        answer: Float[np.ndarray, "D"],
        last: float,
    ) -> Float[np.ndarray, "D"] | None:
        """The nearest broken one of some points behind the program's, if nearer than `last`."""
        image = query.center
        trials = image + np.array(self.scales)[:, None] * (answer - image)
        if math.isfinite(last):
            between = answer + np.array(self.mixed)[:, None] * (point - answer)
            trials = np.concatenate([trials, between])
        trials = np.clip(trials, 0.0, 1.0).astype(np.float32)
        several = lanes_of(lanes, torch.zeros(len(trials), dtype=torch.int64))
        broken = (margins(several, torch.from_numpy(trials)) < -several.slack).numpy()
        points = trials.astype(np.float64)
        costs = np.where(broken, query.objective.value(image, points), np.inf)
        place = int(costs.argmin())
        return points[place] if costs[place] < last * (1 - DISTANCE_STEP) else None


def _program(query: DistanceQuery) -> _Program:
    """Steps of their own for the total variation; else a linear program."""
    objective = query.objective
    if isinstance(objective, L1TvDistance):
        return VariationProgram.of(query, objective).solve
    return linear_program(query)


def linear_program(query: DistanceQuery) -> _Program:
    """`(slope, limit, box, begin, budget) -> x`, of any distance that a program can write."""
    size = query.center.size
    base = distance_over(Box(np.zeros(size), np.ones(size)), query.objective, query.center)
    solver, _ = choose("lp")

    def solve(
        slope: NDArray[np.float64],
        limit: float,
        box: Box,
        begin: NDArray[np.float64],
        budget: Budget,
    ) -> NDArray[np.float64] | None:
        options = SolveOptions(time_limit=budget.remaining, threads=budget.threads)
        point = solver.solve(_under(base, slope, limit, box), options).point
        return None if point is None else np.asarray(np.clip(point[:size], 0.0, 1.0))

    return solve


def _under(base: Model, slope: NDArray[np.float64], limit: float, box: Box) -> Model:
    row = np.zeros(base.columns)
    row[: len(slope)] = slope
    return replace(
        base,
        matrix=csr_array(vstack([base.matrix, csr_array(row[None])], format="csr")),
        row_lower=np.append(base.row_lower, -np.inf),
        row_upper=np.append(base.row_upper, limit),
        lower=np.concatenate([box.lower, base.lower[len(slope) :]]),
        upper=np.concatenate([box.upper, base.upper[len(slope) :]]),
    )
