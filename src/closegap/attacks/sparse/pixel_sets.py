"""Inputs that differ from an image in few pixels, cut into regions: groups of pixels, and counts.

In a region every pixel is held at the image, free in a box of its own, or in a group of which so
many may differ at most. Halving a group leaves one region for every way to share its count among
both halves; together they hold what it held. A group of no more pixels than may differ is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.specs.objectives import Grid

__all__ = ["FREE", "HELD", "PixelSets"]

#: Places of pixels that are in no group.
HELD, FREE = -1, -2
#: What places are kept in: there may be as many groups as pixels.
_PLACE = np.int32


@dataclass(frozen=True, eq=False)
class PixelSets:
    """B regions over a picture of P pixels with C channels, in each at most K free ones.

    Attributes:
        places: where each pixel is: `HELD`, `FREE`, or the number of its group.
        counts: how many pixels of a group may differ; fewer than it has, 0 for groups there are
            not.
        free: the free pixels, -1 behind the last.
        low, high: between what their channels are. Where there are groups, [0, 1].
    """

    places: Int[np.ndarray, "B P"]
    counts: Int[np.ndarray, "B K"]
    free: Int[np.ndarray, "B K"]
    low: Float[np.ndarray, "B K C"]
    high: Float[np.ndarray, "B K C"]

    def __len__(self) -> int:
        return len(self.places)

    @classmethod
    def whole(cls, grid: Grid, count: int) -> PixelSets:
        """One region: of all pixels so many may differ."""
        counts = np.zeros((1, max(count, 1)), dtype=np.int64)
        counts[0, 0] = count
        places = np.full((1, grid.pixels), 0 if count else HELD, dtype=_PLACE)
        return _made(places, counts, grid)

    @classmethod
    def joined(cls, parts: Sequence[PixelSets]) -> PixelSets:
        """All regions of several."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))

    def select(self, which: slice | NDArray[np.generic]) -> PixelSets:
        """Some regions."""
        return PixelSets(*(getattr(self, f.name)[which] for f in fields(self)))

    @property
    def grouped(self) -> NDArray[np.bool_]:
        """Which regions have a group, `[B]`."""
        return np.asarray((self.counts > 0).any(axis=1))

    @property
    def widest(self) -> NDArray[np.float64]:
        """The longest side of each box, `[B]`; 0 where nothing is free."""
        sides = np.where(self.free[:, :, None] >= 0, self.high - self.low, 0.0)
        return np.asarray(sides.max(axis=(1, 2), initial=0.0))

    def ends(self, grid: Grid, image: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
        """The boxes that hold the regions, `[B, D]` twice: counts are forgotten."""
        held = (self.places == HELD)[:, grid.pixel_of]
        low, high = np.where(held, image, 0.0), np.where(held, image, 1.0)
        region, place = np.nonzero(self.free >= 0)
        entries = grid.entries.reshape(grid.channels, -1)[:, self.free[region, place]].T
        low[region[:, None], entries] = self.low[region, place]
        high[region[:, None], entries] = self.high[region, place]
        return low, high

    def halved(self, gains: Float[np.ndarray, "B P"], grid: Grid, *, local: bool) -> PixelSets:
        """The parts of regions with groups: each has its largest group halved.

        Args:
            gains: what each pixel does to what is bounded.
            grid: the picture.
            local: whether halves are sides of a rectangle, or what gains most and the rest.
        """
        size = (self.places[:, :, None] == np.arange(self.counts.shape[1])).sum(axis=1)
        group = np.where(self.counts > 0, size, -1).argmax(axis=1)
        each = np.arange(len(self))
        inside = self.places == group[:, None]
        keys = _sides(inside, grid) if local else -gains
        rank = np.argsort(np.argsort(np.where(inside, keys, np.inf), axis=1), axis=1)
        whole = size[each, group]
        first = np.maximum(whole // (2 if local else _SHARE), 1)
        near = inside & (rank < first[:, None])
        count, parts = self.counts[each, group], []
        other = (self.counts == 0).argmax(axis=1)
        for share in range(int(count.max(initial=0)) + 1):
            fits = (share <= np.minimum(count, first)) & (count - share <= whole - first)
            at = np.flatnonzero(fits)
            places, counts = self.places[at].copy(), self.counts[at].copy()
            rest = count[at] - share
            behind = np.where((share > 0) & (rest > 0), other[at], group[at])
            counts[np.arange(len(at)), behind] = rest
            if share:
                counts[np.arange(len(at)), group[at]] = share
            far = inside[at] & ~near[at]
            places = np.where(far, np.where(rest > 0, behind, HELD)[:, None], places)
            places = np.where(near[at], group[at][:, None] if share else HELD, places)
            parts.append(_made(places.astype(_PLACE), counts, grid))
        return PixelSets.joined(parts)

    def bisected(self, steep: Float[np.ndarray, "B K C"]) -> PixelSets:
        """The halves of regions without groups: each has the side cut that matters most.

        Args:
            steep: how steep what is bounded is along the free pixels' channels.
        """
        count, kept = len(self), self.free[:, :, None] >= 0
        matters = np.where(kept, (self.high - self.low) * (steep + _FLAT), -1.0)
        side = matters.reshape(count, -1).argmax(axis=1)
        at = np.arange(count)
        low, high = (end.reshape(count, -1) for end in (self.low, self.high))
        middle = ((low[at, side] + high[at, side]) / 2).astype(np.float32).astype(np.float64)
        halves = []
        for up in (True, False):
            ends = [low.copy(), high.copy()]
            ends[0 if up else 1][at, side] = middle
            shaped = [end.reshape(self.low.shape) for end in ends]
            halves.append(PixelSets(self.places, self.counts, self.free, *shaped))
        return PixelSets.joined(halves)


#: Of a group, what gains most is one in so many.
_SHARE = 4
#: Steepness that every side has: flat ones are cut, too, once they are wide.
_FLAT = 1e-3


def _sides(inside: NDArray[np.bool_], grid: Grid) -> NDArray[np.int64]:
    """An order of pixels along the longer side of the rectangle around each group."""
    row, column = np.divmod(np.arange(grid.pixels), grid.width)
    spans = [
        np.where(inside, at, -1).max(axis=1) - np.where(inside, at, grid.pixels).min(axis=1)
        for at in (row, column)
    ]
    tall = (spans[0] >= spans[1])[:, None]
    return np.where(tall, row * grid.width + column, column * grid.height + row)


def _made(places: NDArray[np.int32], counts: NDArray[np.int64], grid: Grid) -> PixelSets:
    """Regions whose free pixels may be anything; small groups are free."""
    groups = np.arange(counts.shape[1])
    size = (places[:, :, None] == groups).sum(axis=1)
    small = (counts > 0) & (counts >= size)
    freed = np.zeros(places.shape, dtype=bool)
    for g in groups:
        freed |= (places == g) & small[:, [g]]
    places = np.where(freed, _PLACE(FREE), places)
    counts = np.where(small, 0, counts)
    order = np.argsort(places != FREE, axis=1, kind="stable")[:, : counts.shape[1]]
    free = np.where(np.take_along_axis(places, order, axis=1) == FREE, order, -1)
    shape = (*free.shape, grid.channels)
    return PixelSets(places, counts, free, np.zeros(shape), np.ones(shape))
