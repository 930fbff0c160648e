"""Least values of linear functions over a box cut by half-spaces, many at a time.

A split of a unit leaves a half-space of the input (exact in the first layer). With multipliers
`beta >= 0` every half-space `g . x + d <= 0` may be added to a function that is to be minimised;
any multipliers give a sound bound, so they are sought in float32 and count after one evaluation in
float64 with its rounding subtracted.

Source: the dual of Clip-and-Verify's complete clipping (Zhou et al., NeurIPS 2025); Wang et al.,
beta-CROWN, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.core.numerics import TINY, gamma

__all__ = ["HalfSpaces", "least_under"]

_MOMENTUM, _VARIANCE = 0.9, 0.99
#: First step, in units of the multiplier that would double a row, and what is left after each.
_RATE, _DECAY = 0.2, 0.9


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """`normals . x + offsets <= 0` on each of B domains; rows of zeros say nothing.

    Attributes:
        normals: float64 `[B, K, D]`.
        offsets: float64 `[B, K]`.
    """

    normals: Float[Tensor, "B K D"]
    offsets: Float[Tensor, "B K"]

    @classmethod
    def none(cls, domains: int, size: int) -> HalfSpaces:
        """No half-space at all."""
        empty = torch.zeros(domains, 0, size, dtype=torch.float64)
        return cls(empty, torch.zeros(domains, 0, dtype=torch.float64))

    @property
    def count(self) -> int:
        """Half-spaces a domain (K)."""
        return self.offsets.shape[1]

    def of_rows(self, rows: Int[Tensor, "B M"]) -> HalfSpaces:
        """M of each domain's half-spaces."""
        which = torch.arange(len(rows))[:, None]
        return HalfSpaces(self.normals[which, rows], self.offsets[which, rows])

    def join(self, *others: HalfSpaces) -> HalfSpaces:
        """All of them, one after the other."""
        return HalfSpaces(
            torch.cat([self.normals, *(o.normals for o in others)], dim=1),
            torch.cat([self.offsets, *(o.offsets for o in others)], dim=1),
        )


def least_under(
    spaces: HalfSpaces,
    rows: Float[Tensor, "B Q D"],
    lower: Float[Tensor, "D"],
    upper: Float[Tensor, "D"],
    steps: int,
) -> tuple[Float[Tensor, "B Q"], Float[Tensor, "B Q"]]:
    """Lower bounds of `rows . x` over the box cut by the half-spaces, and their rounding.

    The first minus the second is a lower bound in exact arithmetic.

    Args:
        spaces: the cuts.
        rows: float64.
        lower: of the box.
        upper: of the box.
        steps: gradient steps on the multipliers.
    """
    beta = _climb(spaces, rows, lower, upper, steps).double()
    moved = torch.baddbmm(rows, beta, spaces.normals)
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    reach = torch.maximum(lower.abs(), upper.abs())
    value = moved @ middle - moved.abs() @ half + _weighted(beta, spaces.offsets)
    size = rows.abs() @ reach + _weighted(beta, spaces.normals.abs() @ reach)
    size = 4 * size + _weighted(beta, spaces.offsets.abs())
    return value, gamma(rows.shape[2] + spaces.offsets.shape[1] + 16) * size


def _weighted(beta: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("bqk,bk->bq", beta, values)


def _climb(
    spaces: HalfSpaces, rows: Tensor, lower: Tensor, upper: Tensor, steps: int
) -> Float[Tensor, "B Q K"]:
    """Multipliers by projected Adam in float32; those of the best value seen, each row's own."""
    normals, offsets, fixed = spaces.normals.float(), spaces.offsets.float(), rows.float()
    middle, half = ((lower + upper) / 2).float(), ((upper - lower) / 2).float()
    size = (normals.abs() @ half).clamp(min=TINY)
    scale = (fixed.abs() @ half)[..., None] / size[:, None]
    beta = fixed.new_zeros(*rows.shape[:2], offsets.shape[1])
    best, kept = fixed.new_full(rows.shape[:2], -torch.inf), beta
    mean, square = torch.zeros_like(beta), torch.zeros_like(beta)
    for count in range(1, steps + 1):
        moved = torch.baddbmm(fixed, beta, normals)
        point = middle - half * moved.sign()
        slope = torch.baddbmm(offsets[:, None], point, normals.transpose(1, 2))
        value = (fixed * point).sum(2) + (beta * slope).sum(2)
        better = value > best
        best = torch.where(better, value, best)
        kept = torch.where(better[..., None], beta, kept)
        mean.lerp_(slope / size[:, None], 1 - _MOMENTUM)
        square.lerp_((slope / size[:, None]) ** 2, 1 - _VARIANCE)
        move = mean / (1 - _MOMENTUM**count) / (square / (1 - _VARIANCE**count)).sqrt().add(TINY)
        beta = (beta + _RATE * _DECAY**count * scale * move).clamp(min=0)
    return kept
