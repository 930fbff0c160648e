"""Cost adjustment: gain for each millisecond of bounding that a split causes.

A split at a layer makes the bounds of all later layers worth computing anew, so splits near the
output are cheap. Where inner bounds are kept as they are, all splits cost the same.
Source: Ferrari et al., Complete verification via multi-neuron relaxation guided branch-and-bound,
ICLR 2022, section 4.2, with measured times in place of operation counts.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["cost_adjusted", "split_costs"]


def split_costs(bounding: Float[Tensor, " L"], final: float) -> Float[Tensor, " L"]:
    """What a split at each layer causes.

    Args:
        bounding: milliseconds to bound the units of each layer.
        final: milliseconds to bound the property's rows.
    """
    later = bounding.flip(0).cumsum(0).flip(0) - bounding
    return later + final


def cost_adjusted(
    scores: Float[Tensor, "B U"], costs: Float[Tensor, " L"], layer: Int[Tensor, " U"]
) -> Float[Tensor, "B U"]:
    """Scores over the relative cost of their layer."""
    relative = costs / costs.max() if len(costs) else torch.ones_like(costs)
    return scores / relative[layer]
