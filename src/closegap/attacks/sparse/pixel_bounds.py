"""Bounds over regions of few pixels (`pixel_sets`), many regions at once, rounding counted.

A linear function is least where in each group the pixels differ that lower it most, as many as may.
So the first layer's neurons are bounded, whose pixels are known once for all; further layers by
intervals, and backward where neurons stay undecided; last the margins, backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from closegap.attacks.sparse.joined import joined
from closegap.attacks.sparse.pixel_sets import FREE, PixelSets
from closegap.bounds.backward import BackwardPass
from closegap.bounds.interval import interval_of, propagate
from closegap.bounds.records import Interval, LinearBound
from closegap.bounds.regions import InputSet, underflow
from closegap.core.numerics import gamma
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Grid
from closegap.specs.query import Query

__all__ = ["PixelBounds", "PixelSeen"]

#: Coefficients of the first layer's neurons that are made at a time, and that are kept in all.
_ENTRIES = 4_000_000
#: Neurons, each in its region, that are bounded backward at a time.
_PAIRS = 256


@dataclass(frozen=True, eq=False)
class PixelSeen:
    """What one pass showed of B regions.

    Attributes:
        lower: each margin's proved bound.
        rows: of each region, the margin that is least.
        slopes: of the plane below it, `[B, D]`.
        points: where that is least, float32.
    """

    lower: Float[np.ndarray, "B Q"]
    rows: NDArray[np.int64]
    slopes: Float[np.ndarray, "B D"]
    points: NDArray[np.float32]

    def select(self, which: NDArray[np.bool_]) -> PixelSeen:
        """Of some regions."""
        return PixelSeen(*(getattr(self, f.name)[which] for f in fields(self)))


@dataclass(frozen=True, eq=False)
class _First:
    """The first layer around the image: what each pixel can do to its neurons.

    Attributes:
        low, high: values at the image, rounding included, `[N]`.
        pixels: those that reach a neuron, `[N, W]`; any others behind them.
        falls, rises: how far each can move it, `[N, W]`.
    """

    low: Tensor
    high: Tensor
    pixels: Tensor
    falls: Tensor
    rises: Tensor

    def padded(self, width: int) -> _First:
        """The same for so many pixels a neuron: those behind the last do nothing."""
        wide = (0, width - self.pixels.shape[1])
        more = (pad(part, wide) for part in (self.pixels, self.falls, self.rises))
        return _First(self.low, self.high, *more)

    @classmethod
    def joined(cls, parts: Sequence[_First]) -> _First:
        """All neurons of several."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))


@dataclass(frozen=True, eq=False)
class _Regions:
    """Regions as tensors: differences from the image `[B, 1, D]`, places `[B, P]`."""

    low: Tensor
    high: Tensor
    places: Tensor
    counts: Tensor

    def select(self, which: Tensor) -> _Regions:
        """Some of them."""
        return _Regions(*(getattr(self, f.name)[which] for f in fields(self)))

    def groups(self) -> Iterator[tuple[int, Tensor]]:
        """Every place whose pixels may differ, and how many of these in each region."""
        yield FREE, torch.full((len(self.places),), self.places.shape[1])
        for group, count in enumerate(self.counts.unbind(dim=1)):
            if count.any():
                yield group, count


class PixelBounds:
    """Bounds margins around one image.

    Args:
        query: whose margins; its distance counts pixels.
        grid: the picture.

    Attributes:
        dense: whether neurons of the first layer read all pixels. Then those behind it are bounded
            backward; where they read few, intervals of small regions are nearly as good.
        entries: numbers that one region takes, about.
    """

    def __init__(self, query: DistanceQuery, grid: Grid) -> None:
        self._decision: Query = joined(query.within(0.0))
        self._graph = self._decision.network
        self._network = compiled(self._graph, torch.float64)
        self._grid = grid
        self._image = query.center
        self._center = torch.as_tensor(self._image)
        self._entries = torch.as_tensor(grid.entries.reshape(grid.channels, -1))
        self._pixel_of = torch.as_tensor(grid.pixel_of)
        self._feeds = sorted({self._graph.nodes[i].inputs[0] for i in self._graph.activations})
        prop = self._decision.prop
        self._rows, self._offsets = torch.as_tensor(prop.rows), torch.as_tensor(prop.offsets)
        self._first = self._around()
        width = grid.pixels if self._first is None else self._first.pixels.shape[1]
        self.dense = width > grid.pixels // 2
        widest = max(node.size for node in self._graph.nodes)
        self.entries = max(len(self._rows) * query.network.input_size, widest * width, 1)

    @torch.no_grad()
    def bound(self, sets: PixelSets) -> PixelSeen:
        """Proved bounds of all margins, and where the least of each region may be attained."""
        ends = [torch.as_tensor(end) for end in sets.ends(self._grid, self._image)]
        low, high = (end[:, None] - self._center for end in ends)
        places, counts = torch.as_tensor(sets.places), torch.as_tensor(sets.counts)
        regions = _Regions(low, high, places, counts)
        box = Interval(*(end.reshape(-1, *self._graph.input_shape) for end in ends))
        values, bounds = self._activations(regions, box)
        rows = self._rows.expand(len(sets), *self._rows.shape)
        linear = BackwardPass(self._network, bounds, values).run(len(values) - 1, rows)
        lower, gains = self._least(linear, regions)
        lost = gamma(8) * (lower.abs() + 2 * self._offsets.abs())
        lower = lower + self._offsets - lost
        lower = torch.where(torch.isfinite(lower), lower, -torch.inf)
        worst = lower.argmin(dim=1)
        at = torch.arange(len(sets))
        slopes = linear.coefficients.flatten(2)[at, worst]
        points = self._minimiser(slopes, gains[at, worst], regions)
        return PixelSeen(
            lower.numpy(), worst.numpy(), slopes.numpy(), points.numpy().astype(np.float32)
        )

    @torch.no_grad()
    def margins(self, points: NDArray[np.float32]) -> NDArray[np.float64]:
        """What margins are at points, `[B, Q]`."""
        inputs = torch.as_tensor(points, dtype=torch.float64)
        outputs = self._network(inputs.reshape(-1, *self._graph.input_shape)).flatten(1)
        return np.asarray((outputs @ self._rows.T + self._offsets).numpy())

    def gains(self, seen: PixelSeen) -> Float[np.ndarray, "B P"]:
        """How far each pixel, were it free, could lower the planes."""
        low, high = -self._image, 1 - self._image
        each = -np.minimum(seen.slopes * low, seen.slopes * high)
        return np.asarray(each[:, self._grid.entries].sum(axis=1).reshape(len(each), -1))

    def steep(self, seen: PixelSeen, sets: PixelSets) -> Float[np.ndarray, "B K C"]:
        """How steep the planes are along the free pixels' channels."""
        entries = self._grid.entries.reshape(self._grid.channels, -1).T[sets.free]
        flat = np.take_along_axis(np.abs(seen.slopes), entries.reshape(len(sets), -1), axis=1)
        return np.asarray(flat.reshape(entries.shape))

    def _around(self) -> _First | None:
        """What is known of the first layer once for all; `None` where that is too much."""
        if not self._feeds:
            return None
        feed, parts, held = self._feeds[0], [], 0
        count = self._graph.nodes[feed].size
        image = self._center.reshape(1, *self._graph.input_shape)
        box = InputSet(torch.zeros_like(image), torch.ones_like(image))
        bounder = BackwardPass(self._network, {}, propagate(self._network, box))
        for units in torch.split(torch.arange(count), max(1, _ENTRIES // image.numel())):
            parts.append(self._reached(bounder, feed, units))
            held += parts[-1].pixels.numel()
            if held > _ENTRIES:
                return None
        width = max(part.pixels.shape[1] for part in parts)
        return _First.joined([part.padded(width) for part in parts])

    def _reached(self, bounder: BackwardPass, feed: int, units: Tensor) -> _First:
        """Some neurons of the first layer."""
        node = self._graph.nodes[feed]
        eye = torch.zeros(len(units), node.size, dtype=torch.float64)
        eye[torch.arange(len(units)), units] = 1
        linear = bounder.run(feed, eye.reshape(1, -1, *node.shape))
        rows = linear.coefficients.flatten(2)[0]
        value = rows @ self._center + linear.constant[0]
        lost = self._rounding(rows) + 2 * linear.rounding[0] + gamma(8) * value.abs()
        ends = rows * -self._center, rows * (1 - self._center)
        sides = -torch.minimum(*ends), torch.maximum(*ends)
        falls, rises = (side[:, self._entries].sum(dim=1) for side in sides)
        reached = (falls > 0) | (rises > 0)
        width = max(1, int(reached.sum(dim=1).max()))
        order = torch.argsort(reached.byte(), dim=1, descending=True, stable=True)[:, :width]
        return _First(
            value - 2 * lost,
            value + 2 * lost,
            order,
            falls.gather(1, order),
            rises.gather(1, order),
        )

    def _activations(
        self, regions: _Regions, box: Interval
    ) -> tuple[list[Interval], dict[int, Interval]]:
        """Intervals of every node, and of those that feed activations."""
        values = [box]
        bounds = {0: box} if 0 in self._feeds else {}
        for index in range(1, len(self._graph.nodes)):
            parents = [values[p] for p in self._graph.nodes[index].inputs]
            value = interval_of(self._network, index, parents)
            if index in self._feeds:
                if index == self._feeds[0] and self._first is not None:
                    value = value.intersect(self._counted(self._first, index, regions))
                elif self.dense:
                    value = self._tight(index, value, BackwardPass(
                        self._network, bounds, values), regions)  # fmt: skip
                bounds[index] = value
            values.append(value)
        return values, bounds

    def _counted(self, first: _First, index: int, regions: _Regions) -> Interval:
        """The first layer's neurons."""
        low, high = first.low - 0 * regions.low[:, 0, :1], first.high + 0 * regions.low[:, 0, :1]
        for group, count in regions.groups():
            inside = (regions.places == group)[:, first.pixels]
            low = low - _best(first.falls * inside, count)
            high = high + _best(first.rises * inside, count)
        shape = self._graph.nodes[index].shape
        low = torch.where(torch.isnan(low), -torch.inf, low)
        high = torch.where(torch.isnan(high), torch.inf, high)
        return Interval(low.reshape(-1, *shape), high.reshape(-1, *shape))

    def _tight(
        self, index: int, value: Interval, bounder: BackwardPass, regions: _Regions
    ) -> Interval:
        """Undecided neurons of one node, bounded backward, each in its region."""
        node = self._graph.nodes[index]
        lower, upper = value.lower.flatten(1).clone(), value.upper.flatten(1).clone()
        pairs = ((lower < 0) & (upper > 0)).nonzero()
        for part in torch.split(pairs, _PAIRS) if len(pairs) else ():
            region, unit = part.unbind(dim=1)
            rows = torch.zeros(len(part), 2, node.size, dtype=torch.float64)
            at = torch.arange(len(part))
            rows[at, 0, unit], rows[at, 1, unit] = 1, -1
            linear = bounder.select(region).run(index, rows.reshape(-1, 2, *node.shape))
            found = self._least(linear, regions.select(region))[0]
            lower[region, unit] = torch.fmax(lower[region, unit], found[:, 0])
            upper[region, unit] = torch.fmin(upper[region, unit], -found[:, 1])
        return Interval(lower.reshape(value.lower.shape), upper.reshape(value.upper.shape))

    def _least(self, linear: LinearBound, regions: _Regions) -> tuple[Tensor, Tensor]:
        """Planes' least values less their rounding `[B, Q]`; what each pixel lowers them by."""
        rows = linear.coefficients.flatten(2)
        falls = -torch.minimum(rows * regions.low, rows * regions.high)
        each = falls[:, :, self._entries].sum(dim=2)
        value = rows @ self._center + linear.constant
        for group, count in regions.groups():
            value = value - _best(each * (regions.places == group)[:, None], count)
        value = value - 2 * (self._rounding(rows) + linear.rounding + gamma(8) * value.abs())
        return torch.where(torch.isfinite(value), value, -torch.inf), each

    def _rounding(self, rows: Tensor) -> Tensor:
        """What sums over the inputs may lose: no input, and no difference, is above 1."""
        terms = rows.shape[-1] + 32
        return 4 * gamma(terms) * rows.abs().sum(dim=-1) + terms * underflow(torch.float64)

    def _minimiser(self, slopes: Tensor, each: Tensor, regions: _Regions) -> Tensor:
        """Where planes are least, `[B, D]`; `each` is what pixels lower them by, `[B, P]`."""
        chosen = regions.places == FREE
        for group, count in regions.groups():
            most = int(count.max())
            if group == FREE:
                continue
            inside = torch.where(regions.places == group, each, -1.0)
            best = inside.topk(most, dim=1).indices
            kept = (torch.arange(most) < count[:, None]) & (inside.gather(1, best) >= 0)
            chosen = chosen | torch.zeros_like(chosen).scatter(1, best, kept)
        step = torch.where(slopes > 0, regions.low[:, 0], regions.high[:, 0])
        return self._center + step * chosen[:, self._pixel_of]


def _best(each: Tensor, count: Tensor) -> Tensor:
    """What the best few of the last axis come to, `[B, ...]`; all where so many count."""
    most = int(count.max())
    if most >= each.shape[-1]:
        return each.sum(dim=-1)
    top = each.topk(most, dim=-1).values
    kept = torch.arange(most) < count.reshape(-1, *(1 for _ in each.shape[1:]))
    return (top * kept).sum(dim=-1)
