"""BaBSR: estimate from one backward pass what splitting a neuron would gain.

Source: Bunel et al., Branch and bound for piecewise linear neural network verification, 2020.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.core.numerics import TINY

__all__ = ["babsr_scores", "intercept_scores"]


def babsr_scores(
    incoming: Float[Tensor, "B U"],
    lower: Float[Tensor, "B U"],
    upper: Float[Tensor, "B U"],
    bias: Float[Tensor, " U"],
) -> Float[Tensor, "B U"]:
    """Estimated gain of each unit, 0 where it is not unstable; greater is better.

    Args:
        incoming: coefficient on the activation's output that enters its relaxation.
        lower: pre-activation bounds.
        upper: pre-activation bounds.
        bias: of the affine layer that feeds the unit.
    """
    chord = upper / (upper - lower).clamp(min=TINY)
    off, on = bias * incoming * (chord - 1), bias * incoming * chord
    gain = (torch.minimum(off, on) + incoming.clamp(max=0) * -lower * chord).abs()
    return torch.where((lower < 0) & (upper > 0), gain, torch.zeros_like(gain))


def intercept_scores(
    incoming: Float[Tensor, "B U"], lower: Float[Tensor, "B U"], upper: Float[Tensor, "B U"]
) -> Float[Tensor, "B U"]:
    """What the bound loses at each unit's chord; greater is better, 0 where it is not unstable."""
    chord = upper / (upper - lower).clamp(min=TINY)
    loss = incoming.clamp(max=0) * lower * chord
    return torch.where((lower < 0) & (upper > 0), loss, torch.zeros_like(loss))
