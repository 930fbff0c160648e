"""Binary search over the weight of the attack's loss, several of its weights side by side.

A search for one weight knows nothing of the others, so weights to which the binary search may come
in its next few steps are tried at once, and then it takes these steps: it comes to the same weights
as one after the other, in fewer rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Weighting"]

#: While no weight was enough, the next is so many times larger.
_GROWTH = 10.0
#: Steps of the binary search whose weights are tried at once, whatever they come to.
_LEVELS = 3
#: How many weights these are.
_WEIGHTS = 2**_LEVELS - 1


@dataclass(frozen=True, eq=False)
class Weighting:
    """The weights c of `c * loss + distance`, between one that failed and one that was enough.

    Attributes:
        weights: tried now, ascending, M of each lane.
        failed: the greatest that the search came to and that found nothing.
        enough: the least that it came to and that found something; infinity where none did.
        left: how many weights it may still come to.
        hit: which of the weights did.

    Source: Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017, VI.
    """

    weights: Float[Tensor, "L M"]
    failed: Float[Tensor, "L"]
    enough: Float[Tensor, "L"]
    left: Int[Tensor, "L"]
    hit: Bool[Tensor, "L M"]

    @classmethod
    def of(cls, first: float, like: Float[Tensor, "L"], searches: int) -> Weighting:
        """Begin with this weight; the search comes to so many."""
        weights = _grown(torch.zeros_like(like) + first)
        never = torch.zeros_like(weights, dtype=torch.bool)
        zero = torch.zeros_like(like)
        left = torch.full_like(like, searches, dtype=torch.int64)
        return cls(weights, zero, zero + math.inf, left, never)

    @staticmethod
    def rounds(searches: int) -> int:
        """How often weights are tried at most, where a search comes to so many."""
        return 1 + math.ceil((searches - 1) / _LEVELS)

    @property
    def several(self) -> int:
        """How many weights a lane tries at once (M)."""
        return self.weights.shape[1]

    def seen(self, broken: Bool[Tensor, "K"]) -> Weighting:
        """With what the present step found, lane by lane."""
        return replace(self, hit=self.hit | broken.reshape(self.hit.shape))

    def next(self) -> Weighting | None:
        """The weights to try after these; `None` where every search is at its end."""
        growing = self.enough.isinf()
        found = self._climbed() if bool(growing.all()) else self._halved()
        if bool(growing.any()) and not bool(growing.all()):
            found = _either(growing, self._climbed(), found)
        if not bool((found.left > 0).any()):
            return None
        some = found.enough.isfinite()
        width = torch.where(some, found.enough - found.failed, 0.0)
        share = torch.arange(1, _WEIGHTS + 1, device=width.device) / (_WEIGHTS + 1)
        between = found.failed[:, None] + width[:, None] * share
        beyond = _grown(_GROWTH * found.failed)
        weights = torch.where(some[:, None], between, beyond)
        return replace(found, weights=weights, hit=torch.zeros_like(found.hit))

    def _climbed(self) -> Weighting:
        """After larger and larger weights, the first of which that was enough ends the climb."""
        hit = self.hit.any(dim=1)
        first = torch.where(hit, self.hit.int().argmax(dim=1), self.several)
        left = (self.left - first - hit.long()).clamp(min=0)
        padded = torch.cat([self.failed[:, None], self.weights], dim=1)
        whole = torch.cat([self.weights, torch.full_like(self.failed, math.inf)[:, None]], dim=1)
        failed = padded.gather(1, first[:, None])[:, 0]
        enough = whole.gather(1, first[:, None])[:, 0]
        return replace(self, failed=failed, enough=enough, left=left)

    def _halved(self) -> Weighting:
        """After a grid, along the middles."""
        failed, enough, left = self.failed, self.enough, self.left
        place, stride = torch.full_like(left, _WEIGHTS // 2), (_WEIGHTS + 1) // 4
        for _ in range(_LEVELS):
            going = left > 0
            hit = self.hit.gather(1, place[:, None])[:, 0]
            weight = self.weights.gather(1, place[:, None])[:, 0]
            enough = torch.where(going & hit, weight, enough)
            failed = torch.where(going & ~hit, weight, failed)
            left = left - going.long()
            place, stride = place + torch.where(hit, -stride, stride), stride // 2
        return replace(self, failed=failed, enough=enough, left=left)


def _grown(first: Float[Tensor, "L"]) -> Float[Tensor, "L M"]:
    powers = torch.arange(_WEIGHTS, device=first.device)
    return first[:, None] * _GROWTH**powers


def _either(which: Bool[Tensor, "L"], one: Weighting, other: Weighting) -> Weighting:
    return replace(
        one,
        failed=torch.where(which, one.failed, other.failed),
        enough=torch.where(which, one.enough, other.enough),
        left=torch.where(which, one.left, other.left),
    )
