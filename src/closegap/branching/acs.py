"""Active constraint score: what the constraints that a bound leans on lose at each unit.

At the point that the bound rests on, the upper line of a unit is above its activation. Where a
split keeps the unit on, the line falls to the input, else to zero; how far it falls there, times
the line's multiplier, is to first order what that child gains. Rows over several units that take
over part of the multiplier are tighter than the line, and what they take over counts half.

Source: Ferrari et al., Complete verification via multi-neuron relaxation guided branch-and-bound,
ICLR 2022, section 4.1, which sums the multipliers of rows at a unit's input and output. Here the
unit's own line is one more constraint, inputs are left out, and multipliers are weighted by
distances: without these, units of narrow range, where little can be gained, come first.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.branching.evidence import Evidence
from closegap.core.numerics import TINY

__all__ = ["acs"]

#: The lesser gain counts as no less than this share of the greater: the point is one of many.
_LEAST = 0.05


def acs(evidence: Evidence) -> Float[Tensor, "B U"]:
    """Multipliers of active constraints, times the geometric mean of both children's distances.

    Where it is not known what the bound rests on, the distance is that at zero.
    """
    incoming, lower, upper = evidence.incoming, evidence.lower, evidence.upper
    residual = incoming if evidence.residual is None else evidence.residual
    multiplier = -(incoming.clamp(max=0) + residual.clamp(max=0)) / 2
    resting = torch.zeros_like(lower) if evidence.resting is None else evidence.resting
    point = torch.minimum(torch.maximum(resting, lower), upper)
    line = upper * (point - lower) / (upper - lower).clamp(min=TINY)
    on, off = (line - point).clamp(min=0), line.clamp(min=0)
    less, more = torch.minimum(on, off), torch.maximum(on, off)
    distance = (torch.maximum(less, _LEAST * more) * more).sqrt()
    return evidence.where_open(multiplier * distance)
