"""Cutting boxes by half-spaces, coordinate by coordinate.

Source: relaxed clipping, Zhou et al., Clip-and-Verify, NeurIPS 2025.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma

__all__ = ["cut_sides"]


def cut_sides(
    planes: Float[Tensor, "B Q F"],
    constant: Float[Tensor, "B Q"],
    slack: Float[Tensor, "B Q"],
    lower: Float[Tensor, "B F"],
    upper: Float[Tensor, "B F"],
) -> tuple[Float[Tensor, "B Q F"], Float[Tensor, "B Q F"]]:
    """The least box that each half-space alone leaves, rounded outward.

    Args:
        planes: `planes . x + constant - slack <= 0` holds where points may be.
        constant: of the half-spaces.
        slack: what rounding may have added to the constant, or to the planes on this box.
        lower: of the boxes.
        upper: of the boxes.

    Returns:
        lower and upper sides; where none is left, the lower one is above the upper one.
    """
    lower, upper = lower[:, None], upper[:, None]
    at_least = torch.where(planes > 0, planes * lower, planes * upper)
    rest = at_least.sum(dim=2, keepdim=True) - at_least
    size = (planes.abs() * torch.maximum(lower.abs(), upper.abs())).sum(dim=2, keepdim=True)
    safety = slack[..., None] + 4 * gamma(planes.shape[2] + 8) * size
    room = -(constant[..., None] + rest) + safety
    edge = room / torch.where(planes.abs() < TINY, torch.full_like(planes, TINY), planes)
    edge = edge + 8 * FLOAT64_UNIT * edge.abs() * torch.sign(planes)
    cut_upper = torch.where(planes > TINY, torch.minimum(upper, edge), upper)
    cut_lower = torch.where(planes < -TINY, torch.maximum(lower, edge), lower)
    return _finite(cut_lower, lower), _finite(cut_upper, upper)


def _finite(cut: Tensor, known: Tensor) -> Tensor:
    return torch.where(torch.isfinite(cut), cut, known)
