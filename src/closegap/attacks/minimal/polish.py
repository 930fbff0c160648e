"""Cheap improvements of broken points: put pixels back, draw towards the image, drop pixels.

All lanes go side by side, and nothing here loses: a lane's point is replaced by broken ones only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from closegap.attacks.minimal.adam import Moments
from closegap.attacks.minimal.lanes import (
    Best,
    Lanes,
    evaluate,
    lanes_of,
    margins,
    pixel_peaks,
    pixel_sums,
    sizes,
)
from closegap.core.budget import Budget
from closegap.core.numerics import TINY

__all__ = [
    "Pairs",
    "Polish",
    "changed_pixels",
    "cheapest",
    "drawn",
    "dropped",
    "lowered",
    "put_back",
    "restored",
]

Pairs: TypeAlias = tuple[Int[Tensor, "M"], Int[Tensor, "M"]]


@dataclass(frozen=True)
class Polish:
    """Sizes of the improvements.

    Attributes:
        halvings: of the way to the image.
        single: a lane with no more changed pixels is tried pixel by pixel.
        tried: pixels of a lane that are put back one by one, those that cost least first.
        steps: of gradient on the pixels that stay.
        step_size: of the first of these, in pixels' units.
    """

    halvings: int = 16
    single: int = 256
    tried: int = 12
    steps: int = 24
    step_size: float = 0.5

    def run(self, lanes: Lanes, best: Best, norm: float, budget: Budget) -> Best:
        """The lanes' points after all improvements that their norm knows."""
        if not bool(best.found.any()):
            return best
        points = best.points
        if norm <= 1:
            points = restored(lanes, points, norm, self.single, budget)
        if norm == 0:
            points = dropped(lanes, points, self, budget)
        else:
            points = drawn(lanes, points, self.halvings)
        return best.updated(
            points, sizes(lanes, points - lanes.images, norm), _broken(lanes, points)
        )


def _broken(lanes: Lanes, points: Float[Tensor, "L D"]) -> Bool[Tensor, "L"]:
    return margins(lanes, points) < -lanes.slack


def drawn(lanes: Lanes, points: Float[Tensor, "L D"], halvings: int) -> Float[Tensor, "L D"]:
    """Bisection of the way from the image: a broken point beside one that is not."""
    near, far = torch.zeros_like(lanes.slack), torch.ones_like(lanes.slack)
    for _ in range(halvings):
        middle = (near + far) / 2
        broken = _broken(lanes, _between(lanes, points, middle))
        near, far = torch.where(broken, near, middle), torch.where(broken, middle, far)
    return torch.where((far < 1)[:, None], _between(lanes, points, far), points)


def _between(lanes: Lanes, points: Tensor, share: Tensor) -> Tensor:
    return (lanes.images + share[:, None] * (points - lanes.images)).clamp(0.0, 1.0)


def restored(
    lanes: Lanes, points: Float[Tensor, "L D"], norm: float, single: int, budget: Budget
) -> Float[Tensor, "L D"]:
    """Pixels put back to the image while the point stays broken.

    First in bulk, halves and quarters of those that the gradient says cost least; then one at a
    time, the cheapest by the network's own word.
    """
    points = _in_bulk(lanes, points, norm, budget)
    open_ = _broken(lanes, points)
    while bool(open_.any()) and not budget.expired:
        pairs = changed_pixels(lanes, points, open_, single)
        if not len(pairs[0]):
            break
        back = put_back(lanes, points, pairs)
        seen = margins(lanes_of(lanes, pairs[0]), back)
        cost = seen + lanes.slack[pairs[0]]
        winner, open_ = _least(cost, pairs[0], len(points))
        points = torch.where(open_[:, None], back[winner], points)
    return points


def _in_bulk(lanes: Lanes, points: Tensor, norm: float, budget: Budget) -> Tensor:
    open_ = _broken(lanes, points)
    levels = max(1, math.ceil(math.log2(lanes.pixels + 1)))
    shares = 0.5 ** torch.arange(1, levels + 1, device=points.device)
    while bool(open_.any()) and not budget.expired:
        place = _places(lanes, points, norm)
        changed = pixel_peaks(lanes, points - lanes.images) > 0
        unchanged = (~changed).sum(dim=1)
        counts = (changed.sum(dim=1)[:, None] * shares).floor()
        back = place[:, None] < (unchanged[:, None] + counts)[..., None]
        tried = torch.where(back[:, :, lanes.pixel_of], lanes.images[:, None], points[:, None])
        rows = torch.arange(len(points), device=points.device).repeat_interleave(levels)
        broken = _broken(lanes_of(lanes, rows), tried.flatten(0, 1)).reshape(-1, levels)
        open_ = (broken & (counts > 0)).any(dim=1) & open_
        first = (broken & (counts > 0)).int().argmax(dim=1)
        chosen = tried[torch.arange(len(points), device=points.device), first]
        points = torch.where(open_[:, None], chosen, points)
    return points


def _places(lanes: Lanes, points: Tensor, norm: float) -> Int[Tensor, "L P"]:
    """Rank of each pixel by what the gradient says that putting it back costs; unchanged first."""
    offset = points - lanes.images
    cost = -pixel_sums(lanes, evaluate(lanes, points).gradient * offset)
    moved = pixel_sums(lanes, offset.abs())
    cost = cost / moved.clamp(min=TINY) if norm == 1 else cost
    cost = torch.where(moved > 0, cost, -math.inf)
    return cost.argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def changed_pixels(lanes: Lanes, points: Tensor, open_: Tensor, most: int) -> Pairs:
    """Lanes and their changed pixels, of open lanes that have at most so many."""
    changed = pixel_peaks(lanes, points - lanes.images) > 0
    few = (changed.sum(dim=1) <= most) & open_
    lane, pixel = (changed & few[:, None]).nonzero(as_tuple=True)
    return lane, pixel


def put_back(lanes: Lanes, points: Tensor, pairs: Pairs) -> Float[Tensor, "M D"]:
    """One point a pair: the lane's, with the pixel as in the image."""
    lane, pixel = pairs
    same = lanes.pixel_of[None] == pixel[:, None]
    return torch.where(same, lanes.images[lane], points[lane])


def _least(cost: Tensor, lane: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """For each lane the place of its least cost, and whether that is negative."""
    least = cost.new_full((count,), math.inf).scatter_reduce(0, lane, cost, "amin")
    place = torch.zeros(count, dtype=torch.int64, device=cost.device)
    mine = (cost == least[lane]).nonzero()[:, 0]
    place[lane[mine].flip(0)] = mine.flip(0)
    return place, least < 0


def dropped(
    lanes: Lanes, points: Float[Tensor, "L D"], sizes_: Polish, budget: Budget
) -> Float[Tensor, "L D"]:
    """Fewer changed pixels: one is put back, and the margin lowered again on those that stay."""
    open_ = _broken(lanes, points)
    while bool(open_.any()) and not budget.expired:
        pairs = cheapest(
            lanes, points, changed_pixels(lanes, points, open_, sizes_.single), sizes_.tried
        )
        if not len(pairs[0]):
            break
        inner = lanes_of(lanes, pairs[0])
        back = put_back(lanes, points, pairs)
        low, seen = lowered(inner, back, sizes_, budget)
        winner, open_ = _least(seen + inner.slack, pairs[0], len(points))
        points = torch.where(open_[:, None], low[winner], points)
    return points


def cheapest(lanes: Lanes, points: Tensor, pairs: Pairs, most: int) -> Pairs:
    """Of each lane's pairs those whose pixel costs least to put back, by the network's word."""
    lane, pixel = pairs
    if not len(lane):
        return pairs
    cost = margins(lanes_of(lanes, lane), put_back(lanes, points, pairs))
    table = cost.new_full((len(points), lanes.pixels), math.inf)
    table[lane, pixel] = cost
    rank = table.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    kept = rank[lane, pixel] < most
    return lane[kept], pixel[kept]


def lowered(
    lanes: Lanes, points: Tensor, sizes_: Polish, budget: Budget
) -> tuple[Float[Tensor, "M D"], Float[Tensor, "M"]]:
    """The margin lowered over [0, 1] on the changed pixels; the least seen, and where."""
    free = (pixel_peaks(lanes, points - lanes.images) > 0)[:, lanes.pixel_of]
    moments, best, least = Moments.zero(points), points, margins(lanes, points)
    for taken in range(sizes_.steps + 1):
        seen = evaluate(lanes, points)
        lower = seen.margins < least
        best = torch.where(lower[:, None], points, best)
        least = torch.where(lower, seen.margins, least)
        if budget.expired:
            break
        slope = torch.where(free, seen.gradient, 0.0)
        slope = slope / slope.abs().amax(dim=1, keepdim=True).clamp(min=TINY)
        move, moments = moments.step(slope)
        length = sizes_.step_size * (1 - taken / (sizes_.steps + 1))
        points = (points - length * move).clamp(0.0, 1.0)
    return best, least
