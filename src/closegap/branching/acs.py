"""Active constraint score: how much joint constraints of several neurons lean on each.

Source: Ferrari et al., Complete verification via multi-neuron relaxation guided branch-and-bound,
ICLR 2022, section 4.1.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from closegap.branching.babsr import babsr
from closegap.branching.evidence import Evidence
from closegap.core.numerics import TINY

__all__ = ["acs"]


def acs(evidence: Evidence) -> Float[Tensor, "B U"]:
    """Units that constraints lean on come first, by weight; the others by BaBSR."""
    fallback = _relative(babsr(evidence))
    if evidence.constraint_weights is None:
        return fallback
    weights = _relative(evidence.constraint_weights.abs() * evidence.open)
    return fallback.where(weights <= 0, 1 + weights)


def _relative(scores: Tensor) -> Tensor:
    """In units of each subdomain's greatest score."""
    if not scores.shape[1]:
        return scores
    return scores / scores.amax(dim=1, keepdim=True).clamp(min=TINY)
