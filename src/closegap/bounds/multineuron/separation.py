"""How far points lie outside hulls: only hulls that cut something off are worth their multipliers.

Source: Frank and Wolfe, 1956, with exact steps; Lacoste-Julien and Jaggi, NIPS 2015, on its rate.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.core.numerics import TINY

__all__ = ["normals"]

_STEPS = 100


def normals(points: Float[Tensor, "G W"], vertices: Float[Tensor, "G V W"]) -> Float[Tensor, "G W"]:
    """From each point to (nearly) the nearest one of its hull; the hull lies on that side.

    An estimate: it decides which hulls are used, and nothing else.
    """
    nearest = vertices.mean(dim=1)
    groups = torch.arange(len(points))
    for _ in range(_STEPS):
        away = nearest - points
        lowest = torch.bmm(vertices, away[..., None])[..., 0].argmin(dim=1)
        step = vertices[groups, lowest] - nearest
        length = (step * step).sum(dim=1).clamp(min=TINY)
        share = (-(away * step).sum(dim=1) / length).clamp(0, 1)
        nearest = nearest + share[:, None] * step
    return nearest - points
