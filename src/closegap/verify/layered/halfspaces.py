"""Least values of linear functions over a box, or a ball in it, cut by half-spaces, many at a time.

A split of a unit leaves a half-space of the input (exact in the first layer). With multipliers
`beta >= 0` every half-space `g . x + d <= 0` may be added to a function that is to be minimised;
any multipliers give a sound bound. They are sought in float32, and the sums over the inputs that
were made on the way count: float32's own rounding, bounded for sums in any order, is subtracted.

Source: the dual of Clip-and-Verify's complete clipping (Zhou et al., NeurIPS 2025); Wang et al.,
beta-CROWN, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.core.numerics import FLOAT32_UNIT, FLOAT64_UNIT, TINY, gamma
from closegap.verify.layered.ball import BallReach

__all__ = ["HalfSpaces", "Least", "least_under"]

_MOMENTUM, _VARIANCE = 0.9, 0.99
#: First step, in units of the multiplier that would double a row, and what is left after each.
_RATE, _DECAY = 0.2, 0.9


@dataclass(frozen=True, eq=False)
class Least:
    """Least values of rows over a cut box.

    Attributes:
        value: minus `rounding` a lower bound in exact arithmetic, float64 `[B, Q]`.
        rounding: float64 `[B, Q]`.
        multipliers: of the half-spaces behind the values, `[B, Q, K]`.
    """

    value: Float[Tensor, "B Q"]
    rounding: Float[Tensor, "B Q"]
    multipliers: Float[Tensor, "B Q K"]


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
    ball: tuple[Float[Tensor, "D"], float] | None = None,
) -> Least:
    """Lower bounds of `rows . x` over the box, or the ball in it, cut by the half-spaces.

    What the half-widths or the radius add is summed in single precision, with the allowance for
    that; what the middle adds, in double precision.

    Args:
        spaces: the cuts.
        rows: float64.
        lower: of the box.
        upper: of the box.
        steps: evaluations of multipliers; the first is of zeros, and is always made.
        ball: center and radius, Euclidean; `None` for the box alone.
    """
    box: _Box | _Ball
    if ball is None:
        box = _Box(spaces, rows, lower, upper)
    else:
        box = _Ball(spaces, rows, (lower, upper), ball)
    beta, value = _climb(box, steps)
    chosen = beta.double()
    reach = torch.maximum(torch.maximum(lower.abs(), upper.abs()), box.middle.abs())
    wide = rows.abs() @ reach
    wide = wide + _weighted(chosen, spaces.normals.abs() @ reach + spaces.offsets.abs())
    near = box.size(box.rows).double() + _weighted(chosen, box.size(box.normals).double())
    terms = rows.shape[2] + spaces.count + 16
    rounding = 4 * gamma(terms) * wide + 2 * gamma(terms, box.unit) * near
    lost = TINY * (1 + chosen.sum(2)) * (rows.shape[2] + reach.sum()) + box.vanished
    return Least(rows @ box.middle + value, rounding + lost, beta)


def _length(rows: Tensor) -> Tensor:
    """Sums of absolute entries, over the last axis."""
    return cast(Tensor, torch.linalg.vector_norm(rows, 1, dim=-1))


def _weighted(beta: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("bqk,bk->bq", beta, values)


class _Ball:
    """Rows and cuts around the center of a ball in a box; see `BallReach`."""

    def __init__(
        self,
        spaces: HalfSpaces,
        rows: Tensor,
        box: tuple[Tensor, Tensor],
        ball: tuple[Tensor, float],
    ) -> None:
        exact = _products_are_exact()
        dtype = torch.float32 if exact else torch.float64
        self.unit = FLOAT32_UNIT if exact else FLOAT64_UNIT
        reach = BallReach(*ball, box, dtype)
        self.middle, self.vanished = reach.center, reach.vanished
        self.rows, self.normals = rows.to(dtype), spaces.normals.to(dtype)
        self.offsets = spaces.offsets + spaces.normals @ self.middle
        self.length, self.size, self.toward = reach.length, reach.size, reach.toward


class _Box:
    """Rows and cuts in units of the box's half-widths, around its middle.

    In float32, unless torch was told that its products of float32 may be less precise than that.
    A half-width that float32 would lose is widened to one that it holds, which only lowers bounds.
    """

    def __init__(self, spaces: HalfSpaces, rows: Tensor, lower: Tensor, upper: Tensor) -> None:
        exact = _products_are_exact()
        dtype = torch.float32 if exact else torch.float64
        self.unit = FLOAT32_UNIT if exact else FLOAT64_UNIT
        self.middle, half = (lower + upper) / 2, (upper - lower) / 2
        half = torch.where(half > 0, half.clamp(min=TINY), half).to(dtype)
        self.rows = rows.to(dtype) * half
        self.normals = spaces.normals.to(dtype) * half
        self.offsets = spaces.offsets + spaces.normals @ self.middle
        self.vanished = 0.0

    def length(self, rows: Tensor) -> Tensor:
        """How far each row falls from the middle."""
        return _length(rows)

    def size(self, rows: Tensor) -> Tensor:
        """A norm of rows that no row falls farther than."""
        return _length(rows)

    def toward(self, rows: Tensor) -> Tensor:
        """The gradient of `length`, in place of the rows."""
        return rows.sign_()


def _products_are_exact() -> bool:
    """Whether products of float32 are rounded as float32 is."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # it was set for some backends alone, by torch's newer names
        return False


def _climb(box: _Box | _Ball, steps: int) -> tuple[Tensor, Tensor]:
    """Multipliers by projected Adam; those of the best value seen, each row's own, and the values.

    The values leave the rows' products with the middle of the box out.
    """
    offsets, normals = box.offsets.to(box.rows.dtype), box.normals
    across = normals.transpose(1, 2)
    size = box.size(normals).clamp(min=TINY)
    scale = box.size(box.rows)[..., None] / size[:, None]
    shape = (*box.rows.shape[:2], offsets.shape[1])
    beta = box.rows.new_zeros(shape)
    best, kept = box.rows.new_full(shape[:2], -torch.inf, dtype=torch.float64), beta
    mean, square = torch.zeros_like(beta), torch.zeros_like(beta)
    moved = torch.empty_like(box.rows)
    last = max(1, steps)
    for count in range(1, last + 1):
        torch.baddbmm(box.rows, beta, normals, out=moved)
        value = torch.matmul(beta.double(), box.offsets[..., None])[..., 0]
        value = value - box.length(moved)
        better = value > best
        best = torch.where(better, value, best)
        kept = torch.where(better[..., None], beta, kept)
        if count == last:
            break
        slope = torch.baddbmm(offsets[:, None], box.toward(moved), across, alpha=-1) / size[:, None]
        mean.lerp_(slope, 1 - _MOMENTUM)
        square.lerp_(slope * slope, 1 - _VARIANCE)
        move = mean / (1 - _MOMENTUM**count) / (square / (1 - _VARIANCE**count)).sqrt().add(TINY)
        beta = (beta + _RATE * _DECAY**count * scale * move).clamp(min=0)
    return kept, best
