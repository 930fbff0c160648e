"""Concretisation: the least value of a linear function over the input region.

Sources: `[dual norms]` Zhang et al., CROWN, 2018; balls cut by a box: the Lagrangian dual over one
multiplier (l2) and the fractional knapsack (l1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from closegap.bounds.windows import Window
from closegap.core.numerics import BISECTION_SPAN, TINY, float32_outward, gamma
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.region import Ball, Prices, Region, bounding_box

__all__ = ["InputSet", "input_set", "least", "minimiser", "underflow"]

#: Steps to the multiplier of the l2 ball; after each the box stops more inputs.
_MULTIPLIER_STEPS = 6


@dataclass(frozen=True, eq=False)
class InputSet:
    """A region as tensors: boxes `[B or 1, *shape]`, one optional ball shared by all domains.

    In a ball of norm 1 each change may have a price, `prices` `[2, *shape]`: of changes up, and
    down. Changes that cost the radius at most count then.
    """

    lower: Tensor
    upper: Tensor
    center: Tensor | None = None
    radius: float = 0.0
    norm: int = 0
    prices: Tensor | None = None

    def select(self, rows: Tensor) -> InputSet:
        """The boxes of some domains; a shared box stays shared."""
        if len(self.lower) == 1:
            return self
        return replace(self, lower=self.lower[rows], upper=self.upper[rows])

    def crop(self, window: Window) -> InputSet:
        """What functions of a window's entries alone see of it: a region that holds them all."""
        lower, upper = window.crop(self.lower), window.crop(self.upper)
        center, prices = (None if t is None else window.crop(t) for t in (self.center, self.prices))
        return replace(self, lower=lower, upper=upper, center=center, prices=prices)

    def to(self, dtype: torch.dtype) -> InputSet:
        """The same region in another dtype (rounded to nearest: for search, not for proof)."""
        center, prices = (None if t is None else t.to(dtype) for t in (self.center, self.prices))
        lower, upper = self.lower.to(dtype), self.upper.to(dtype)
        return replace(self, lower=lower, upper=upper, center=center, prices=prices)


def input_set(network: TorchNetwork, region: Region, prices: Prices | None = None) -> InputSet:
    """The region on the network's device, widened to hold every float32 point it stands for.

    Args:
        network: whose device and dtype; in float32, prices are rounded to nearest: for search.
        region: where inputs lie.
        prices: of the changes that count of an l1 ball, whose own radius they replace.
    """
    box = bounding_box(region)
    low, high = float32_outward(box.lower, box.upper)
    lower, upper = network.tensor(low), network.tensor(high)
    if network.dtype == torch.float32:
        lower, upper = _outward(lower, low, -np.inf), _outward(upper, high, np.inf)
    if isinstance(region, Ball):
        center = network.tensor(region.center)
        found = InputSet(lower[None], upper[None], center[None], region.radius, region.norm)
        if prices is None or region.norm != 1:
            return found
        both = np.stack([prices.up, prices.down]).reshape(2, *region.center.shape)
        return replace(found, radius=prices.room, prices=network.tensor(both))
    return InputSet(lower[None], upper[None])


def _outward(rounded: Tensor, exact: np.ndarray, direction: float) -> Tensor:
    target = torch.as_tensor(exact, device=rounded.device)
    off = rounded.double() > target if direction < 0 else rounded.double() < target
    step = torch.nextafter(rounded, torch.full_like(rounded, direction))
    return torch.where(off, step, rounded)


def underflow(dtype: torch.dtype) -> float:
    """A product in this dtype that underflows is off by less than this, beside its rounding."""
    info = torch.finfo(dtype)
    return float(info.smallest_normal) * float(info.eps)


def least(
    region: InputSet, coefficients: Float[Tensor, "B Q ..."]
) -> tuple[Float[Tensor, "B Q"], Float[Tensor, "B Q"]]:
    """The least value of `coefficients . x` over the region, and its rounding allowance.

    The first minus the second is a lower bound in exact arithmetic. Differentiable in the
    coefficients (the rounding is not).
    """
    rows = coefficients.flatten(2)
    lower, upper = region.lower.flatten(1)[:, None], region.upper.flatten(1)[:, None]
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    box = _dot(rows, middle) - _dot(rows.abs(), half)
    unit = float(torch.finfo(rows.dtype).eps) / 2
    scale = _dot(rows.detach().abs(), torch.maximum(lower.abs(), upper.abs()))
    relative = gamma(rows.shape[2] + 8, unit) * 2
    vanished = 8 * rows.shape[2] * underflow(rows.dtype)
    if region.center is None:
        return box, relative * scale + vanished
    center = region.center.flatten(1)[:, None]
    low, high = lower - center, upper - center
    if region.prices is not None:
        value, size = _least_priced(rows, low, high, region)
    else:
        cut = _least_l1 if region.norm == 1 else _least_l2
        value, size = cut(rows, low, high, region.radius)
    away = center.abs() + torch.maximum(low.abs(), high.abs())  # a box may be nearer to zero
    size = size.detach() + _dot(rows.detach().abs(), away)
    ball = _dot(rows, center) + value
    return torch.maximum(box, ball), 2 * relative * torch.maximum(scale, size) + vanished


def _dot(rows: Tensor, vector: Tensor) -> Tensor:
    """`[B, Q, D] . [B or 1, 1, D] -> [B, Q]` as one matrix product for shared vectors."""
    if len(vector) == 1:
        return rows @ vector[0, 0]
    return torch.einsum("bqd,bd->bq", rows, vector[:, 0])


def _least_l1(rows: Tensor, low: Tensor, high: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Spend the budget on the largest coefficients first, each up to its side of the box.

    Returns:
        the bound, and what its rounding is relative to besides `|rows| . |offsets|`.
    """
    capacity = torch.where(rows > 0, -low, high)
    size, order = rows.abs().sort(dim=2, descending=True)
    room = capacity.gather(2, order)
    before = room.cumsum(2) - room
    spent = torch.minimum(room, (radius - before).clamp(min=0))
    return -(size * spent).sum(2), size.amax(2) * radius


def _least_priced(
    rows: Tensor, low: Tensor, high: Tensor, region: InputSet
) -> tuple[Tensor, Tensor]:
    """As `_least_l1`, by what each change wins for its price."""
    assert region.prices is not None
    up, down = region.prices.flatten(1)
    price = torch.where(rows > 0, down, up)
    capacity = torch.where(rows > 0, -low, high) * price
    rate, order = (rows.abs() / price).sort(dim=2, descending=True)
    room = capacity.gather(2, order)
    before = room.cumsum(2) - room
    most = max(region.radius, 0.0)
    spent = torch.minimum(room, (most - before).clamp(min=0))
    return -(rate * spent).sum(2), rate.amax(2) * room.sum(2).clamp(max=most)


def _least_l2(rows: Tensor, low: Tensor, high: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Any multiplier theta > 0 of the ball gives a lower bound; a few steps to the best.

    Without the box theta is `|rows| / radius`, which is too large. There the box stops some inputs;
    as if it stopped no others, the next theta is smaller, and still too large. Each step is exact
    where the same inputs are stopped at the answer.

    Returns:
        as `_least_l1`.
    """
    theta = _l2_multiplier(rows.detach(), low, high, radius)
    step = torch.clamp(-rows / theta, low, high).detach()
    inner = (rows * step + theta / 2 * step**2).sum(2)
    dual: Tensor = inner - theta[..., 0] * radius**2 / 2
    return dual, theta[..., 0] * ((step**2).sum(2) + radius**2)


def _l2_multiplier(rows: Tensor, low: Tensor, high: Tensor, radius: float) -> Tensor:
    """About the best theta, `[B, Q, 1]`; from above, where the box holds the center."""
    size = torch.linalg.vector_norm(rows, dim=2, keepdim=True).clamp(min=TINY)
    theta: Tensor = size / radius
    floor, ceiling = theta * BISECTION_SPAN, 2 * theta
    for _ in range(_MULTIPLIER_STEPS):
        wanted = rows / -theta
        step = wanted.clamp(low, high)
        free = step == wanted
        squares = step.square_()
        whole = squares.sum(2, keepdim=True)
        moved = squares.mul_(free).sum(2, keepdim=True)
        left = (radius**2 - (whole - moved)).clamp(min=TINY)
        theta = (theta * (moved / left).sqrt()).clamp(floor, ceiling)
    return theta


def minimiser(region: InputSet, coefficients: Float[Tensor, "B Q ..."]) -> Float[Tensor, "B Q ..."]:
    """A point of the box at which each row is least (for balls: near it); a free candidate."""
    lower, upper = region.lower[:, None], region.upper[:, None]
    corner = torch.where(coefficients > 0, lower, upper)
    corner = torch.where(coefficients == 0, (lower + upper) / 2, corner)
    if region.center is None:
        return corner
    center = region.center[:, None]
    step = (corner - center).flatten(2)
    if region.norm == 2:
        step = (-coefficients.flatten(2) * step.abs().amax()).clamp(
            (lower - center).flatten(2), (upper - center).flatten(2)
        )
    length = torch.linalg.vector_norm(step, ord=region.norm, dim=2, keepdim=True).clamp(min=TINY)
    scaled = step * (region.radius / length).clamp(max=1)
    moved: Tensor = center + scaled.reshape(coefficients.shape)
    return moved
