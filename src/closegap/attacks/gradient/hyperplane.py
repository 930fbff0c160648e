"""The shortest way to a hyperplane: in a region's own norm, no coordinate beyond its room."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.projection import RegionBatch
from closegap.core.numerics import TINY

__all__ = ["gauge", "least_in_box", "to_hyperplane"]


def gauge(regions: RegionBatch, points: Float[Tensor, "B L D"]) -> Float[Tensor, "B L"]:
    """How far points are from their regions' centers, in radii: at most 1 for a member.

    For boxes the radius is each coordinate's half-width; fixed coordinates do not count.
    """
    offset = (points - regions.center[:, None]).abs()
    if regions.norm != math.inf:
        length: Tensor = torch.linalg.vector_norm(offset, ord=regions.norm, dim=2)
        return length / regions.radius.clamp(min=TINY)[:, None]
    half = regions.unit[:, None]
    return torch.where(half > 0, offset / half.clamp(min=TINY), 0.0).amax(dim=2)


def to_hyperplane(
    regions: RegionBatch,
    points: Float[Tensor, "B L D"],
    normal: Float[Tensor, "B L D"],
    gap: Float[Tensor, "B L"],
) -> Float[Tensor, "B L D"]:
    """The least displacement d, by gauge, with `normal . d = gap`.

    In balls, coordinates stay in the ball's box; where no point of it lies on the plane, d goes as
    near as the box allows. In a box's own gauge coordinates have no limit.

    Source: Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary
        Attack, ICML 2020, section 3.1.
    """
    direction = normal * gap.sign()[..., None]
    if regions.norm == math.inf:
        half = regions.unit[:, None]
        reach = gap.abs() / (normal.abs() * half).sum(dim=2).clamp(min=TINY)
        return direction.sign() * half * reach[..., None]
    upper, lower = regions.upper[:, None] - points, points - regions.lower[:, None]
    room = torch.where(direction > 0, upper, lower).clamp(min=0.0)
    return direction.sign() * least_in_box(regions.norm, normal.abs(), room, gap.abs())


def least_in_box(
    norm: float,
    slope: Float[Tensor, "B L D"],
    room: Float[Tensor, "B L D"],
    gap: Float[Tensor, "B L"],
) -> Float[Tensor, "B L D"]:
    """The s in `[0, room]` of least norm (1, 2, infinity) with `slope . s = gap`; all are >= 0.

    Where no s of the box reaches the gap, it goes as near as the box allows.
    """
    return _KERNELS[norm](slope, room, gap)


def _least_l2(
    slope: Float[Tensor, "B L D"], room: Float[Tensor, "B L D"], gap: Float[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """The shortest s in `[0, room]` with `slope . s = gap`: `min(t * slope, room)` for some t.

    Between two breakpoints `room / slope` the product is linear in t, so sorting them solves it.
    """
    stops, order = (room / slope.clamp(min=TINY)).sort(dim=2)
    ends = (slope * room).gather(2, order)
    before = ends.cumsum(dim=2) - ends
    squares = slope.square().gather(2, order)
    moving = squares.sum(dim=2, keepdim=True) - squares.cumsum(dim=2) + squares
    reach = (gap[..., None] - before).clamp(min=0.0) / moving.clamp(min=TINY)
    within = reach <= stops
    first = within.int().argmax(dim=2, keepdim=True)
    scale = torch.where(within.any(dim=2, keepdim=True), reach.gather(2, first), torch.inf)
    stretched = torch.where(slope > 0, slope * scale, 0.0)
    return torch.minimum(stretched, room)


def _least_l1(
    slope: Float[Tensor, "B L D"], room: Float[Tensor, "B L D"], gap: Float[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """The s in `[0, room]` of least sum with `slope . s = gap`: steepest coordinates first."""
    order = slope.argsort(dim=2, descending=True, stable=True)
    steep = slope.gather(2, order)
    ends = room.gather(2, order)
    won = steep * ends
    left = (gap[..., None] - (won.cumsum(dim=2) - won)).clamp(min=0.0)
    taken = torch.where(steep > 0, torch.minimum(left / steep.clamp(min=TINY), ends), 0.0)
    return torch.zeros_like(slope).scatter(2, order, taken)


def _least_linf(
    slope: Float[Tensor, "B L D"], room: Float[Tensor, "B L D"], gap: Float[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """The s in `[0, room]` of least greatest entry with `slope . s = gap`: `min(t, room)`."""
    stops, order = room.sort(dim=2)
    steep = slope.gather(2, order)
    ends = steep * stops
    before = ends.cumsum(dim=2) - ends
    moving = steep.sum(dim=2, keepdim=True) - steep.cumsum(dim=2) + steep
    reach = (gap[..., None] - before).clamp(min=0.0) / moving.clamp(min=TINY)
    within = reach <= stops
    first = within.int().argmax(dim=2, keepdim=True)
    level = torch.where(within.any(dim=2, keepdim=True), reach.gather(2, first), torch.inf)
    return torch.where(slope > 0, torch.minimum(level, room), 0.0)


_KERNELS = {1.0: _least_l1, 2.0: _least_l2, math.inf: _least_linf}
