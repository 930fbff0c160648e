"""Attack-guided: prefer neurons on whose phase the best candidates disagree.

What all near-counterexamples agree on is likely to be the same at the worst point; a split there
leaves one child that is easy and one that is as hard as its parent.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["disagreement", "guided"]


def disagreement(active: Bool[Tensor, "M U"]) -> Float[Tensor, " U"]:
    """`4 p (1 - p)` with p the share of candidates that switch a unit on: 1 at an even vote."""
    share = active.double().mean(dim=0)
    return 4 * share * (1 - share)


def guided(scores: Float[Tensor, "B U"], disagreement: Float[Tensor, " U"]) -> Float[Tensor, "B U"]:
    """Scores, up to doubled where candidates disagree."""
    return scores * (1 + disagreement)
