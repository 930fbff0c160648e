"""Splits as walls: between which values the constraints of a subdomain hold each unit.

A split is (unit, sign, point): `sign (z - point) >= 0`. The point belongs to both halves, so they
cover their parent. Of several splits of one unit only the tightest on either side matters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Walls"]


@dataclass(frozen=True, eq=False)
class Walls:
    """`low <= z <= high` for every unit of B subdomains; infinite where there is no split.

    Attributes:
        low: float64 `[B, U]`.
        high: float64 `[B, U]`.
    """

    low: Float[Tensor, "B U"]
    high: Float[Tensor, "B U"]

    @classmethod
    def of_splits(
        cls,
        units: Int[np.ndarray, "B depth"],
        signs: Int[np.ndarray, "B depth"],
        points: Float[np.ndarray, "B depth"] | None,
        count: int,
    ) -> Walls:
        """The tightest walls of all splits.

        Args:
            units: padded with -1.
            signs: +1 for `z >= point`, -1 for `z <= point`.
            points: `None` for zeros.
            count: of units (U).
        """
        level = np.zeros(units.shape) if points is None else points
        low = np.full((len(units), count + 1), -np.inf)
        high = np.full((len(units), count + 1), np.inf)
        where = (np.arange(len(units))[:, None], units % (count + 1))
        np.maximum.at(low, where, np.where(signs > 0, level, -np.inf))
        np.minimum.at(high, where, np.where(signs < 0, level, np.inf))
        return cls(torch.as_tensor(low[:, :count]), torch.as_tensor(high[:, :count]))

    @classmethod
    def at_zero(cls, signs: Int[np.ndarray, "B U"]) -> Walls:
        """Every split at 0; a sign of 0 is no split."""
        given = torch.as_tensor(signs)
        none = torch.full(given.shape, torch.inf, dtype=torch.float64)
        return cls(torch.where(given > 0, 0.0, -none), torch.where(given < 0, 0.0, none))

    def __len__(self) -> int:
        return len(self.low)

    def intersect(self, other: Walls) -> Walls:
        """The tighter of both on either side."""
        return Walls(torch.maximum(self.low, other.low), torch.minimum(self.high, other.high))

    def join(self, other: Walls) -> Walls:
        """The walls of both, one after the other."""
        return Walls(torch.cat([self.low, other.low]), torch.cat([self.high, other.high]))

    def select(self, which: slice | Tensor | Int[np.ndarray, "M"]) -> Walls:
        """The walls of some subdomains."""
        return Walls(self.low[which], self.high[which])

    def of_units(self, units: slice) -> Walls:
        """The walls of some units."""
        return Walls(self.low[:, units], self.high[:, units])

    @property
    def any(self) -> bool:
        """True iff something is split."""
        return bool(self.low.isfinite().any() or self.high.isfinite().any())
