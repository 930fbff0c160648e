"""The least number of pixels, proved by cutting up the ways to choose them.

That no counterexample differs in so many pixels is shown region by region (`pixel_sets`): what a
bound leaves open has a group of pixels halved, or once none is left a channel's range. The fewer
pixels may still be chosen, and the fewer there are to choose from, the fewer neurons are undecided:
phases, which trees split elsewhere, are open for some pixel nearly always. One pixel more is tried
once nothing is left. Where regions' bounds are least the network is evaluated.
Source: few-pixel robustness by covers of pixel sets, Shapira et al. (Calzone, 2023); counts are cut
here together with the sets.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.pixel_bounds import PixelBounds, PixelSeen
from closegap.attacks.sparse.pixel_sets import PixelSets
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT32_UNIT
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import L0Distance

__all__ = ["PixelSearch"]

#: Regions that are bounded together at most, and numbers that are held for them.
_BATCH, _ENTRIES = 64, 4_000_000
#: Boxes are cut down to a few float32 numbers.
_NARROWEST = 16 * FLOAT32_UNIT


class PixelSearch:
    """Counts of pixels for one query, one after the other, in turns.

    Args:
        query: its distance counts pixels.
        incumbent: judges points, and is told what is proved.

    Attributes:
        nodes: regions there were.
        least: what was proved here.
        stuck: whether some region can be neither closed nor cut.
    """

    def __init__(self, query: DistanceQuery, incumbent: Incumbent) -> None:
        assert isinstance(query.objective, L0Distance)
        self._query, self._incumbent = query, incumbent
        self._grid = query.objective.grid
        self._count = 0
        self._open: list[PixelSets] = []
        self.nodes, self.stuck, self.least = 0, False, 0.0

    @property
    def paused(self) -> bool:
        """Whether another turn may go on."""
        return not self.stuck and self._incumbent.lower < self._incumbent.distance

    @cached_property
    def _bounds(self) -> PixelBounds:
        return PixelBounds(self._query, self._grid)

    @property
    def local(self) -> bool:
        """Whether neurons of the first layer read few pixels."""
        return not self._bounds.dense

    def grow(self, turn: Budget) -> None:
        """Go on until the bracket is closed, or the turn ends."""
        while self.paused and not turn.expired:
            if not self._open or self._count < self._proved:
                self._plant()
            self._advance(self._bounds)
            if not (self._open or self.stuck):
                whole = self._count >= self._grid.pixels
                self.least = math.inf if whole else self._count + 1.0
                self._incumbent.prove(self.least)

    @property
    def _proved(self) -> int:
        """So many pixels at least; at first none, which is the image itself."""
        lower = max(self._incumbent.lower, 0.0)
        return math.ceil(min(lower, float(self._grid.pixels)))

    def _plant(self) -> None:
        self._count = self._proved
        self._open = [PixelSets.whole(self._grid, self._count)]
        self.nodes += 1

    def _advance(self, bounds: PixelBounds) -> None:
        """Bound the newest regions; cut those that stay open."""
        sets = self._taken(max(1, min(_BATCH, _ENTRIES // bounds.entries)))
        seen = bounds.bound(sets)
        self._judge(bounds, seen)
        left = seen.lower.min(axis=1, initial=math.inf) <= 0
        flat = left & ~sets.grouped
        for chosen in (left & sets.grouped, flat):
            if not chosen.any():
                continue
            part, at = sets.select(chosen), seen.select(chosen)
            if chosen is flat:
                narrow = part.widest <= _NARROWEST
                if narrow.any():
                    self.stuck = True
                    return
                cut = part.bisected(bounds.steep(at, part))
            else:
                cut = part.halved(bounds.gains(at), self._grid, local=not bounds.dense)
            self._open.append(cut)
            self.nodes += len(cut)

    def _taken(self, most: int) -> PixelSets:
        """The newest regions."""
        parts, count = [], 0
        while self._open and count < most:
            part = self._open.pop()
            over = max(0, count + len(part) - most)
            if over:
                self._open.append(part.select(slice(0, over)))
            parts.append(part.select(slice(over, None)))
            count += len(parts[-1])
        return PixelSets.joined(parts)

    def _judge(self, bounds: PixelBounds, seen: PixelSeen) -> None:
        """Offer the point whose margin is least, of those that are nearer than the best."""
        margins = bounds.margins(seen.points).min(axis=1, initial=math.inf)
        far = self._query.objective.value(self._query.center, seen.points.astype(np.float64))
        margins = np.where(far < self._incumbent.distance, margins, math.inf)
        best = int(margins.argmin())
        if margins[best] < 0:
            self._incumbent.offer(seen.points[best])
