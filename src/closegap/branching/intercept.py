"""Intercept: what the bound loses at the upper line of each neuron."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from closegap.branching.evidence import Evidence
from closegap.core.numerics import TINY

__all__ = ["intercept"]


def intercept(evidence: Evidence) -> Float[Tensor, "B U"]:
    """The chord's height at zero, times the negative coefficient that meets it."""
    incoming, lower, upper = evidence.incoming, evidence.lower, evidence.upper
    chord = upper / (upper - lower).clamp(min=TINY)
    return evidence.where_open(incoming.clamp(max=0) * lower * chord)
