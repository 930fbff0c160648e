"""BaBSR: estimate from one backward pass what splitting a neuron would gain.

Source: Bunel et al., Branch and bound for piecewise linear neural network verification, 2020.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.branching.evidence import Evidence
from closegap.core.numerics import TINY

__all__ = ["babsr"]


def babsr(evidence: Evidence) -> Float[Tensor, "B U"]:
    """Bias and chord: what the bound changes by in the worse child, by first-order estimate."""
    incoming, lower, upper = evidence.incoming, evidence.lower, evidence.upper
    chord = upper / (upper - lower).clamp(min=TINY)
    off, on = evidence.bias * incoming * (chord - 1), evidence.bias * incoming * chord
    gain = (torch.minimum(off, on) + incoming.clamp(max=0) * -lower * chord).abs()
    return evidence.where_open(gain)
