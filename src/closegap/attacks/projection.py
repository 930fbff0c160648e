"""Regions as batches of tensors: project onto them, take the steepest step, sample from them.

Everything is float32 in the loop, because a network with float32 inputs sees float32 numbers only.
Boxes are rounded inward, so their points are members exactly. Balls are handled with a radius
shrunk by the rounding of a float32 point, so the same holds for them up to extreme cases;
`to_float32_inside` is the last word for one point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from closegap.core.numerics import FLOAT32_UNIT, FLOAT64_UNIT, RIM_SLACK, float32_inward
from closegap.specs.region import Ball, Region, bounding_box, contains

__all__ = [
    "RegionBatch",
    "batch_regions",
    "inside",
    "project",
    "region_norm",
    "sample",
    "steepest",
    "to_float32_inside",
]


@dataclass(frozen=True, eq=False)
class RegionBatch:
    """B regions of one norm over D flattened inputs.

    Attributes:
        norm: 1 or 2 for balls inside boxes, infinity for boxes.
        lower, upper: float32, the greatest box of float32 points inside each region's box.
        center: of the ball, or the middle of the box; always inside `[lower, upper]`.
        radius: of the ball, shrunk so that float32 points at that distance are members.
    """

    norm: float
    lower: Float[Tensor, "B D"]
    upper: Float[Tensor, "B D"]
    center: Float[Tensor, "B D"]
    radius: Float[Tensor, "B"]

    @property
    def unit(self) -> Float[Tensor, "B D"]:
        """How far a coordinate typically moves inside the region; 0 for a fixed input."""
        half = (self.upper - self.lower) / 2
        if self.norm == math.inf:
            return half
        size = self.center.shape[1]
        spread = float(size) if self.norm == 1 else math.sqrt(size)
        return torch.minimum(half, self.radius[:, None] / spread)


def region_norm(region: Region) -> float:
    """1 or 2 for a ball, infinity for a box."""
    return float(region.norm) if isinstance(region, Ball) else math.inf


def batch_regions(regions: Sequence[Region], *, device: torch.device | str = "cpu") -> RegionBatch:
    """Stack regions of one norm and one shape.

    Raises:
        ValueError: the norms differ, or there is no region.
    """
    norms = {region_norm(region) for region in regions}
    if len(norms) != 1:
        raise ValueError(f"a batch of regions needs one norm, got {sorted(norms)}")
    ends = [float32_inward(b.lower, b.upper) for b in map(bounding_box, regions)]
    lower = np.stack([low.reshape(-1) for low, _ in ends])
    upper = np.stack([high.reshape(-1) for _, high in ends])
    center = np.stack([_middle(r).reshape(-1) for r in regions]).astype(np.float32)
    radius = np.array([_inner_radius(r) for r in regions], dtype=np.float32)
    return RegionBatch(
        norm=norms.pop(),
        lower=torch.as_tensor(lower, device=device),
        upper=torch.as_tensor(upper, device=device),
        center=torch.as_tensor(np.clip(center, lower, upper), device=device),
        radius=torch.as_tensor(radius, device=device),
    )


def project(regions: RegionBatch, points: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """The nearest point (Euclidean) of its region to each of L points a region."""
    lower, upper = regions.lower[:, None], regions.upper[:, None]
    if regions.norm == math.inf:
        return torch.maximum(torch.minimum(points, upper), lower)
    offset = (points - regions.center[:, None]).double()
    room = _room(regions, offset)
    kernel = _ball_l2 if regions.norm == 2 else _ball_l1
    size = kernel(offset.abs(), room, regions.radius.double()[:, None].expand(offset.shape[:2]))
    moved = regions.center[:, None] + (offset.sign() * size).float()
    return torch.maximum(torch.minimum(moved, upper), lower)


def inside(regions: RegionBatch, points: Float[Tensor, "B L D"]) -> Bool[Tensor, "B L"]:
    """Which points are members: exactly for boxes, up to float32 rounding for balls."""
    member = ((points >= regions.lower[:, None]) & (points <= regions.upper[:, None])).all(dim=2)
    if regions.norm == math.inf:
        return member
    offset = (points - regions.center[:, None]).double()
    length: Tensor = torch.linalg.vector_norm(offset, ord=regions.norm, dim=2)
    return member & (length <= regions.radius.double()[:, None] * (1 + RIM_SLACK))


def steepest(regions: RegionBatch, gradient: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """The displacement from the center to the region's point with the least `gradient . x`.

    For a box this is minus the half-width times the sign; for an l2 ball the clipped, normalised
    gradient; for an l1 ball the few coordinates with the largest gradient, moved to the box's end
    one after the other until the radius is spent. Zero where the gradient is zero. Exact, so on
    an affine network one full step from the center attains the minimum.
    """
    if regions.norm == math.inf:
        above = (regions.upper - regions.center)[:, None]
        below = (regions.lower - regions.center)[:, None]
        return torch.where(gradient < 0, above, torch.where(gradient > 0, below, 0.0))
    direction = -gradient.double()
    room = _room(regions, direction)
    radius = regions.radius.double()[:, None].expand(direction.shape[:2])
    if regions.norm == 2:
        size = _vertex_l2(direction.abs(), room, radius)
    else:
        size = _vertex_l1(direction.abs(), room, radius)
    return (direction.sign() * size).float()


def sample(regions: RegionBatch, lanes: int, random: torch.Generator) -> Float[Tensor, "B L D"]:
    """`lanes` random points a region: uniform in the box, then projected into the ball."""
    shape = (len(regions.lower), lanes, regions.lower.shape[1])
    share = torch.rand(shape, generator=random, device=regions.lower.device)
    lower, upper = regions.lower[:, None], regions.upper[:, None]
    return project(regions, lower + share * (upper - lower))


def to_float32_inside(region: Region, point: NDArray[np.floating]) -> NDArray[np.float32] | None:
    """A float32 point in the region next to `point`, as `specs.region.contains` judges.

    Returns:
        the point, or `None` when the region holds no float32 point near it (a ball smaller than
        the spacing of float32 numbers).
    """
    box = bounding_box(region)
    low, high = float32_inward(box.lower, box.upper)
    clipped = np.clip(point.astype(np.float64), low, high)
    if not isinstance(region, Ball):
        return clipped.astype(np.float32)
    offset = clipped - region.center
    room = np.where(offset > 0, high - region.center, region.center - low)
    kernel = _ball_l2 if region.norm == 2 else _ball_l1
    for attempt in range(4):
        shrink = 1 - 8 * FLOAT64_UNIT - attempt * offset.size * FLOAT32_UNIT
        radius = torch.tensor([[region.radius * max(shrink, 0.0)]])
        size = kernel(
            torch.as_tensor(np.abs(offset).reshape(1, 1, -1)),
            torch.as_tensor(np.maximum(room, 0.0).reshape(1, 1, -1)),
            radius.double(),
        )
        target = region.center + np.sign(offset) * size.numpy().reshape(offset.shape)
        rounded = _round_toward(target, region.center, low, high)
        if contains(region, rounded):
            return rounded
    nearest = np.clip(region.center.astype(np.float32), low, high)
    return nearest if contains(region, nearest) else None


def _round_toward(
    target: NDArray[np.float64],
    center: NDArray[np.float64],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Round to float32, never farther from `center` than `target` where float32 allows it."""
    rounded = target.astype(np.float32)
    past = np.abs(rounded - center) > np.abs(target - center)
    inward = np.nextafter(rounded, np.where(target > center, -np.inf, np.inf).astype(np.float32))
    better = past & (np.abs(inward - center) < np.abs(rounded - center))
    return np.clip(np.where(better, inward, rounded), low, high).astype(np.float32)


def _middle(region: Region) -> NDArray[np.float64]:
    if isinstance(region, Ball):
        return region.center
    return region.lower + (region.upper - region.lower) / 2


def _inner_radius(region: Region) -> float:
    """The radius, less what rounding D coordinates to float32 can add to a distance."""
    if not isinstance(region, Ball):
        return math.inf
    size = region.center.size
    largest = max(float(np.abs(region.box.lower).max()), float(np.abs(region.box.upper).max()))
    entry = 4 * FLOAT32_UNIT * max(largest, region.radius)
    return max(0.0, region.radius - entry * (size if region.norm == 1 else math.sqrt(size)))


def _room(regions: RegionBatch, direction: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """How far each coordinate may go from the center in this direction, in float64."""
    center = regions.center.double()[:, None]
    above, below = (
        regions.upper.double()[:, None] - center,
        center - regions.lower.double()[:, None],
    )
    return torch.where(direction > 0, above, below).clamp(min=0.0)


def _ball_l2(
    size: Float[Tensor, "B L D"], room: Float[Tensor, "B L D"], radius: Float[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """Projection of sizes >= 0 onto `{0 <= s <= room, ||s||_2 <= radius}`.

    The answer is `min(t * size, room)` with the greatest t <= 1 that keeps the length: between
    two breakpoints `room / size` the squared length is quadratic in t, so sorting them solves it.
    """
    scale = _fill_l2(size, room, radius).clamp(max=1.0)
    return torch.minimum(size * scale[..., None], room)


def _vertex_l2(
    size: Float[Tensor, "B L D"], room: Float[Tensor, "B L D"], radius: Float[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """The s in `{0 <= s <= room, ||s||_2 <= radius}` with the greatest `size . s`."""
    scale = _fill_l2(size, room, radius)
    stretched = torch.where(size > 0, size * scale[..., None], 0.0)
    return torch.minimum(torch.nan_to_num(stretched, nan=0.0), room)


def _fill_l2(
    size: Float[Tensor, "B L D"], room: Float[Tensor, "B L D"], radius: Float[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    """The t at which `||min(t * size, room)||_2` reaches the radius; infinity if it never does."""
    stops = torch.where(size > 0, room / size, torch.inf)
    stops, order = stops.sort(dim=-1)
    squares = (size**2).gather(-1, order)
    moving = squares.sum(-1, keepdim=True) - squares.cumsum(-1) + squares
    stopped = torch.where(stops.isfinite(), room.gather(-1, order), 0.0) ** 2
    stopped = stopped.cumsum(-1) - stopped
    left = (radius**2)[..., None] - stopped
    # The segment ending at `stops[j]` has the coordinates before j at their ends.
    reach = torch.where(moving > 0, (left.clamp(min=0.0) / moving).sqrt(), torch.inf)
    inside = reach <= stops
    first = inside.int().argmax(dim=-1, keepdim=True)
    answer = reach.gather(-1, first).squeeze(-1)
    return torch.where(inside.any(-1), answer, torch.inf)


def _ball_l1(
    size: Float[Tensor, "B L D"], room: Float[Tensor, "B L D"], radius: Float[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """Projection of sizes >= 0 onto `{0 <= s <= room, sum(s) <= radius}`.

    The answer is `clip(size - t, 0, room)` with the least t >= 0 that keeps the sum, which is
    piecewise linear and decreasing in t: its breakpoints are sorted.
    """
    total = torch.minimum(size, room).sum(-1)
    starts = torch.cat([(size - room).clamp(min=0.0), size], dim=-1)
    slope = torch.cat([-torch.ones_like(size), torch.ones_like(size)], dim=-1)
    stops, order = starts.sort(dim=-1)
    slopes = slope.gather(-1, order).cumsum(-1)
    widths = stops.diff(dim=-1)
    sums = total[..., None] + torch.cat(
        [torch.zeros_like(total)[..., None], (slopes[..., :-1] * widths).cumsum(-1)], dim=-1
    )
    # `sums[j]` is the sum at t = stops[j]; find the last breakpoint still above the radius.
    above = (sums > radius[..., None]).sum(-1, keepdim=True).clamp(min=1) - 1
    rest = sums.gather(-1, above) - radius[..., None]
    step = rest / (-slopes.gather(-1, above)).clamp(min=1.0)
    shift = torch.where(total[..., None] > radius[..., None], stops.gather(-1, above) + step, 0.0)
    return torch.minimum((size - shift).clamp(min=0.0), room)


def _vertex_l1(
    size: Float[Tensor, "B L D"], room: Float[Tensor, "B L D"], radius: Float[Tensor, "B L"]
) -> Float[Tensor, "B L D"]:
    """The s in `{0 <= s <= room, sum(s) <= radius}` with the greatest `size . s`: greedy."""
    order = size.argsort(dim=-1, descending=True, stable=True)
    ends = torch.where(size > 0, room, 0.0).gather(-1, order)
    before = ends.cumsum(-1) - ends
    taken = torch.minimum(ends, (radius[..., None] - before).clamp(min=0.0))
    return torch.zeros_like(size).scatter(-1, order, taken)
