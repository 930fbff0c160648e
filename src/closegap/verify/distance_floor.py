"""How far the nearest counterexample is at least, by linear bounds alone.

Every counterexample of distance <= r lies in the region of r. There each margin is above a plane,
and it is at most 0 where the class is lost, so the distance is at least that to the plane's zero:
`min(r, least)` bounds every counterexample's distance, whatever r was. Small regions have tight
planes, so the largest r that reaches itself is sought. Sources: dual norms of CROWN planes, Zhang
et al. (2018), with `Objective.least` in place of the norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.numerics import gamma
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import priced
from closegap.specs.query import Query
from closegap.specs.region import bounding_box
from closegap.verify.incomplete import LinearVerifier

__all__ = ["FloorOptions", "distance_floor"]

Array = NDArray[np.float64]

#: The first limit, in multiples of the distance that the slopes at the image promise.
_BEYOND = 1.5
#: While nothing is proved, the next limit is this share of the last one: planes worsen fast with
#: the region, and on large networks there is time for few of them.
_DOWN = 0.25


@dataclass(frozen=True)
class FloorOptions:
    """How much to try.

    Attributes:
        rounds: regions bounded by CROWN.
        climbs: regions bounded once more with optimised slopes.
        close: ends once what is proved and what stayed open are in this ratio.
        climb: on the slopes of the property's rows.
    """

    rounds: int = 10
    climbs: int = 4
    close: float = 1.05
    climb: AscentOptions = field(default_factory=lambda: AscentOptions(iterations=20))


def distance_floor(
    query: DistanceQuery,
    budget: Budget,
    *,
    lower: float = -math.inf,
    upper: float = math.inf,
    options: FloorOptions | None = None,
    prove: Callable[[float], None] | None = None,
) -> float:
    """A lower bound of every counterexample's distance, in exact arithmetic.

    Args:
        query: whose counterexamples.
        budget: checked between regions.
        lower: what is proved already.
        upper: distances from here on are of no interest; with a counterexample's, it is a bound of
            the least distance nevertheless.
        options: how much to try.
        prove: told of the bound after every region.

    Returns:
        at most `upper`; where nothing is known, the least value of the distance over [0, 1]^D.
    """
    chosen = options or FloorOptions()
    search = _Search(query, budget, lower, upper)
    if not lower > 0:
        search.guess()
    for climb, rounds in ((None, chosen.rounds), (chosen.climb, chosen.climbs)):
        for _ in range(rounds):
            limit = search.next(chosen.close)
            if limit is None or budget.expired:
                break
            search.bound(limit, climb)
            if prove is not None:
                prove(min(search.low, upper))
        search.reopen()
    return min(search.low, upper)


class _Search:
    """What is proved (`low`), and the least limit that did not reach itself (`high`)."""

    def __init__(self, query: DistanceQuery, budget: Budget, lower: float, upper: float) -> None:
        self._query, self._budget, self._upper = query, budget, upper
        size = query.center.size
        nothing, self._ends = np.zeros((1, size)), (np.zeros(size), np.ones(size))
        floor = query.objective.least(query.center, nothing, np.zeros(1), *self._ends)
        self.low = max(float(floor[0]), lower)
        self._last = self._farthest()
        self.high = self._last
        self._first: float | None = None

    def _farthest(self) -> float:
        """A limit that no counterexample of interest exceeds."""
        if math.isfinite(self._upper):
            return self._upper - (1 if self._query.objective.integral else 0)
        center = self._query.center
        corner = np.where(center < 1 - center, 1.0, 0.0)
        return max(self._query.objective.attained(center, corner), self.low)

    def guess(self) -> None:
        """Start where the network's slopes at the image put the nearest lost label, and beyond."""
        query = self._query.within(0.0)
        near = self._reached(
            replace(query, region=self._query.within(self._last).region), *self._planes(query, None)
        )
        self._first = min(_BEYOND * near, self._last)

    def reopen(self) -> None:
        """Limits not far above may be tried again, by other means."""
        self._first = None
        self.high = min(self._last, _BEYOND * max(self.high, self.low))

    def next(self, close: float) -> float | None:
        """The next limit, or `None` where no other is worth it."""
        low, high = self.low, self.high
        limit, self._first = self._first, None
        if limit is None:
            limit = math.sqrt(low * high) if low > 0 else low + _DOWN * (high - low)
        if self._query.objective.integral:
            limit = float(math.floor(limit))
            return limit if low <= limit <= high and low < high + 1 else None
        return limit if high - low > (close - 1) * abs(high) else None

    def bound(self, limit: float, climb: AscentOptions | None) -> None:
        """Raise `low` by what holds up to a limit; where that is less, the limit stayed open."""
        query = self._query.within(limit)
        reached = self._reached(query, *self._planes(query, climb, limit))
        beyond = limit + 1 if self._query.objective.integral else limit
        self.low = max(self.low, min(reached, beyond))
        if reached < beyond:
            self.high = min(self.high, limit)

    def _planes(
        self, query: Query, climb: AscentOptions | None, limit: float = math.inf
    ) -> tuple[Array, Array]:
        """Below the margins of every row on the query's region, up to a limit of the distance."""
        prices = priced(self._query.objective, self._query.center, limit)
        verifier = LinearVerifier(query, prices=prices)
        bounds = verifier.activations(self._budget)
        return verifier.planes(bounds, self._budget, np.arange(len(query.prop.rows)), climb)

    def _reached(self, query: Query, slopes: Array, constants: Array) -> float:
        """No counterexample of the region is nearer."""
        image, box = self._query.center, bounding_box(query.region)
        at_image = slopes @ image
        size = np.abs(slopes) @ np.abs(image) + np.abs(constants)
        offsets = constants + at_image - 2 * gamma(image.size + 8) * size
        ends = box.lower.reshape(-1), box.upper.reshape(-1)
        each = self._query.objective.least(image, -slopes, -offsets, *ends)
        clauses = query.prop.clause_values(np.where(np.isnan(each), -np.inf, each)[None])
        return float(clauses.min(initial=math.inf))
