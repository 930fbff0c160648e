"""Fewer pixels by exchange: take some back, change others, lower the margin again.

Descents put pixels back as long as the point stays broken, and end where none can be missed. A set
of as few pixels may break the property all the same, if it is another one. From sets of one pixel
less, whose margins are the least that descent on their pixels finds, the next ones differ in one
pixel: one is put back, and one of those comes in that the gradient there values most, at the end of
[0, 1] where it gains. A beam of sets goes on, and none is tried twice. Once a set breaks the
property the search begins anew from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.attacks.minimal.attack import room_of
from closegap.attacks.minimal.lanes import (
    Lanes,
    build_lanes,
    evaluate,
    lanes_of,
    margins,
    pixel_peaks,
    pixel_sums,
)
from closegap.attacks.minimal.polish import (
    Pairs,
    Polish,
    changed_pixels,
    cheapest,
    lowered,
    put_back,
)
from closegap.core.budget import Budget
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery

__all__ = ["Exchange"]

#: Numbers of the points that are tried together, at most.
_ENTRIES = 2**23
#: The widest beam that `run` comes to.
_WIDEST = 64


@dataclass(frozen=True)
class Exchange:
    """Sizes of the search.

    Attributes:
        kept: sets of the beam.
        dropped: pixels of each that are put back, one by one, those that cost least first.
        added: pixels that may come in for each of them.
        tried: new sets a round whose margin is lowered.
        rounds: at most, for each number of pixels.
        patience: rounds without a lower margin before the search gives up.
        first: steps of gradient before the pixels that may come in are chosen.
        polish: sizes of the descent on a set's pixels.
    """

    kept: int = 8
    dropped: int = 12
    added: int = 24
    tried: int = 24
    rounds: int = 16
    patience: int = 3
    first: int = 8
    polish: Polish = field(default_factory=Polish)

    @property
    def wider(self) -> Exchange:
        """Twice the beam, and more of everything."""
        return replace(
            self,
            kept=2 * self.kept,
            dropped=2 * self.dropped,
            added=2 * self.added,
            tried=2 * self.tried,
            rounds=2 * self.rounds,
            patience=self.patience + 1,
        )

    def run(
        self,
        query: DistanceQuery,
        known: Sequence[Nearest],
        budget: Budget,
        judge: OnNearer,
    ) -> Nearest:
        """A counterexample of as few pixels as there is time for, from known ones.

        From each of them, the nearest first; then from the nearest with wider and wider beams.

        Args:
            query: whose counterexamples; its distance counts pixels.
            known: some, which counted.
            budget: its deadline, and the seed of the sets' names.
            judge: says of a float32 point and its distance whether it counts.

        Returns:
            the nearest; no point where none was known.
        """
        ranked = sorted((n for n in known if n.found), key=lambda nearest: nearest.distance)
        found = [self._fewer(query, nearest, budget, judge) for nearest in ranked]
        best = min(found, key=lambda nearest: nearest.distance, default=Nearest())
        sizes = self
        while best.found and best.distance > 1 and not budget.expired and sizes.kept < _WIDEST:
            sizes = sizes.wider
            best = sizes._fewer(query, best, budget, judge)
        return best

    def _fewer(
        self, query: DistanceQuery, best: Nearest, budget: Budget, judge: OnNearer
    ) -> Nearest:
        """Pixel by pixel, until the search gives up."""
        while best.distance > 1 and not budget.expired:
            fewer = _Search(self, query, best, budget).fewer()
            if fewer is None or fewer.point is None or not judge(fewer.point, fewer.distance):
                break
            best = fewer
        return best


class _Search:
    """For one pixel less than a counterexample has."""

    def __init__(
        self, sizes: Exchange, query: DistanceQuery, known: Nearest, budget: Budget
    ) -> None:
        assert known.point is not None
        network = compiled(query.network, torch.float32)
        self._sizes, self._query, self._budget = sizes, query, budget
        self._base = build_lanes(network, [query], 1, room_of(network, budget))
        start = network.tensor(known.point.reshape(1, -1)).float()
        backs = put_back(self._base, start, self._changes(start))
        self._points, self._seen = self._lowered(backs, sizes.polish)
        self._tried = self._named(self._points)

    @cached_property
    def _names(self) -> Int[Tensor, "P"]:
        """A random number for each pixel; a set's name is the sum of its pixels'."""
        random = torch.Generator().manual_seed(self._budget.seed)
        ends = torch.iinfo(torch.int64)
        drawn = torch.randint(ends.min, ends.max, (self._base.pixels,), generator=random)
        return drawn.to(self._base.images.device)

    def fewer(self) -> Nearest | None:
        """One with fewer pixels, to be judged; `None` where the search gave up."""
        least, idle = math.inf, 0
        for taken in range(self._sizes.rounds + 1):
            if not len(self._points):
                return None
            found = float(self._seen.min())
            if found < -float(self._base.slack):
                return self._nearest(self._points[self._seen.argmin()])
            least, idle = min(least, found), 0 if found < least else idle + 1
            over = taken == self._sizes.rounds or idle >= self._sizes.patience
            if over or self._budget.expired or not self._advance():
                return None
        return None

    def _advance(self) -> bool:
        """Sets that differ in a pixel from those of the beam; whether there are any."""
        order = self._seen.argsort(stable=True)[: self._sizes.kept]
        self._points, self._seen = self._points[order], self._seen[order]
        new = self._entered(self._without())
        if not len(new):
            return False
        self._tried = torch.cat([self._tried, self._named(new)])
        points, seen = self._lowered(new, self._sizes.polish)
        self._points, self._seen = (
            torch.cat([self._points, points]),
            torch.cat([self._seen, seen]),
        )
        return True

    def _without(self) -> Float[Tensor, "M D"]:
        """The beam's sets with a pixel less, a set once, with their margins lowered a little."""
        lanes = self._lanes(self._points)
        pairs = cheapest(lanes, self._points, self._changes(self._points), self._sizes.dropped)
        less = put_back(lanes, self._points, pairs)
        less = less[_firsts(self._named(less))]
        return self._lowered(less, replace(self._sizes.polish, steps=self._sizes.first))[0]

    def _entered(self, less: Float[Tensor, "M D"]) -> Float[Tensor, "N D"]:
        """New sets of a pixel more, those of the least margins."""
        if not len(less):
            return less
        lanes = self._lanes(less)
        gradient = evaluate(lanes, less).gradient
        ends = torch.where(gradient > 0, 0.0, 1.0)
        gains = pixel_sums(lanes, gradient * (less - ends))
        gains = gains.masked_fill(self._changed(less), 0.0)
        gain, pixel = gains.topk(min(self._sizes.added, lanes.pixels), dim=1)
        row, place = (gain > 0).nonzero(as_tuple=True)
        pixel = pixel[row, place]

        def entered(which: Int[Tensor, "K"]) -> Float[Tensor, "K D"]:
            enters = lanes.pixel_of[None] == pixel[which, None]
            return torch.where(enters, ends[row[which]], less[row[which]])

        every = torch.arange(len(row), device=less.device)
        parts = every.split(max(1, _ENTRIES // less.shape[1]))
        seen = torch.cat([self._margins(entered(part)) for part in parts])
        names = self._named(less)[row] + self._names[pixel]
        seen = seen.masked_fill(torch.isin(names, self._tried), math.inf)
        order = seen.argsort(stable=True)
        order = order[_firsts(names[order])[: self._sizes.tried]]
        return entered(order[seen[order].isfinite()])

    def _margins(self, points: Float[Tensor, "M D"]) -> Float[Tensor, "M"]:
        return margins(self._lanes(points), points)

    def _lowered(
        self, points: Float[Tensor, "M D"], polish: Polish
    ) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M"]]:
        return lowered(self._lanes(points), points, polish, self._budget)

    def _lanes(self, points: Float[Tensor, "M D"]) -> Lanes:
        """One for each point."""
        return lanes_of(self._base, torch.zeros_like(points[:, 0], dtype=torch.int64))

    def _changes(self, points: Float[Tensor, "N D"]) -> Pairs:
        """Points and their changed pixels; none of a point with too many."""
        lanes = self._lanes(points)
        every = torch.ones_like(lanes.slack, dtype=torch.bool)
        return changed_pixels(lanes, points, every, self._sizes.polish.single)

    def _changed(self, points: Float[Tensor, "M D"]) -> Tensor:
        return pixel_peaks(self._base, points - self._base.images) > 0

    def _named(self, points: Float[Tensor, "M D"]) -> Int[Tensor, "M"]:
        return (self._changed(points) * self._names).sum(dim=1)

    def _nearest(self, point: Float[Tensor, "D"]) -> Nearest:
        shaped = point.cpu().numpy().reshape(self._query.network.input_shape)
        return Nearest(self._query.distance(shaped), shaped)


def _firsts(names: Int[Tensor, "M"]) -> Int[Tensor, "N"]:
    """Where each name comes first, in order."""
    _, which = names.unique(return_inverse=True)
    count = int(which.max()) + 1 if len(which) else 0
    places = torch.arange(len(names), device=names.device)
    firsts = torch.full((count,), len(names), device=names.device)
    return firsts.scatter_reduce(0, which, places, "amin").sort().values
