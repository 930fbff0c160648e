"""Binary search over the weight of the attack's loss, a lane a number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = ["Weighting"]

#: While no weight was enough, the next is so many times larger.
_GROWTH = 10.0


@dataclass(frozen=True, eq=False)
class Weighting:
    """The weight c of `c * loss + distance`, between one that failed and one that was enough.

    Attributes:
        weight: tried now.
        failed: the greatest that found nothing.
        enough: the least that found something; infinity where none did.
        hit: whether this one did.

    Source: Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017, VI.
    """

    weight: Float[Tensor, "L"]
    failed: Float[Tensor, "L"]
    enough: Float[Tensor, "L"]
    hit: Bool[Tensor, "L"]

    @classmethod
    def of(cls, first: float, like: Float[Tensor, "L"]) -> Weighting:
        """Begin with this weight."""
        never = torch.zeros_like(like, dtype=torch.bool)
        zero = torch.zeros_like(like)
        return cls(zero + first, zero, zero + math.inf, never)

    def seen(self, broken: Bool[Tensor, "L"]) -> Weighting:
        """With what the present step found."""
        return Weighting(self.weight, self.failed, self.enough, self.hit | broken)

    def next(self) -> Weighting:
        """The weight to try after this one."""
        enough = torch.where(self.hit, torch.minimum(self.enough, self.weight), self.enough)
        failed = torch.where(self.hit, self.failed, torch.maximum(self.failed, self.weight))
        middle = (failed + enough) / 2
        weight = torch.where(enough.isfinite(), middle, self.weight * _GROWTH)
        return Weighting(weight, failed, enough, torch.zeros_like(self.hit))
