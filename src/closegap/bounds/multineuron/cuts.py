"""Rows that support hulls of groups of neurons; splits move them in.

The limit of a row `p . (z, h) >= limit` is the least of `p . (v, act(v))` over the vertices that
are allowed (`bounds/multineuron/hulls.py`), fewer of them under splits. Each row has one
multiplier, and a few that cut off what a bound rests on do most of what all facets would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.constraints import CutPart, LinearCuts, Terms
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.records import Interval
from closegap.core.numerics import gamma

__all__ = ["HullCuts"]


@dataclass(frozen=True, eq=False)
class HullCuts:
    """Rows over groups of one layer, as a `ConstraintSet`.

    Attributes:
        hulls: the groups.
        owner: the group of each row, `[R]`.
        least: of each row at each vertex of its group, a lower bound in spite of rounding and the
            vertices' tolerance, float64 `[R, V]`.
        rows: the same as linear cuts, limits `[B or 1, R]`.
    """

    hulls: VertexHulls
    owner: Int[Tensor, "R"]
    least: Float[Tensor, "R V"]
    rows: LinearCuts

    @classmethod
    def of(
        cls, hulls: VertexHulls, owner: Int[Tensor, "R"], normals: Float[Tensor, "R W"]
    ) -> HullCuts:
        """Rows `normals . (z, h) >= limit`, the limits as great as the hulls allow.

        Args:
            hulls: the groups.
            owner: the group of each row.
            normals: float64; a multiplier's unit.
        """
        lifted, size = hulls.lifted[owner], hulls.members.shape[1]
        value = torch.bmm(lifted, normals[..., None])[..., 0]
        weight = normals.abs()
        allowance = gamma(4 * size + 8)
        lost = allowance * torch.bmm(lifted.abs(), weight[..., None])[..., 0]
        lost = lost + (hulls.tolerance[owner] * weight.sum(dim=1))[:, None]
        least = value - (1 + allowance) * lost
        neurons, place = torch.unique(hulls.members, return_inverse=True)
        parts = []
        for first, node in ((0, hulls.feed), (size, hulls.activation)):
            spread = normals.new_zeros(len(owner), len(neurons))
            spread.scatter_(1, place[owner], -normals[:, first : first + size])
            parts.append(CutPart(node, hulls.shape, neurons, spread))
        return cls(hulls, owner, least, LinearCuts(tuple(parts), -least.amin(dim=1)))

    @property
    def size(self) -> int:
        """How many rows there are."""
        return self.rows.size

    @property
    def scale(self) -> float:
        """See `ConstraintSet`: the rows are made to a unit."""
        return self.rows.scale

    def terms(self, multipliers: Tensor, values: Sequence[Interval] | None) -> Terms:
        """See `ConstraintSet`."""
        return self.rows.terms(multipliers, values)

    def project(self, multipliers: Tensor) -> Tensor:
        """See `ConstraintSet`."""
        return self.rows.project(multipliers)

    def select(self, domains: Tensor) -> HullCuts:
        """See `ConstraintSet`."""
        return replace(self, rows=self.rows.select(domains))

    def to(self, dtype: torch.dtype) -> HullCuts:
        """See `ConstraintSet`."""
        return replace(self, rows=self.rows.to(dtype))

    def restricted(self, signs: Mapping[int, Tensor]) -> tuple[HullCuts, Tensor | None]:
        """See `ConstraintSet`: limits over the vertices that obey the splits."""
        found = self.hulls.excluded(signs)
        if found is None:
            return self, None
        count = len(signs[self.hulls.feed])
        empty = torch.zeros(count, dtype=torch.bool)
        empty[found.domain[found.out.all(dim=1)]] = True
        pair, row = _joined(found.group, self.owner, len(self.hulls.members))
        least = self.least[row]
        values = least.where(~found.out[pair], torch.inf).amin(dim=1)
        limits = self.rows.limits.expand(count, -1).clone()
        limits[found.domain[pair], row] = -values.where(values.isfinite(), least.amin(dim=1))
        return replace(self, rows=replace(self.rows, limits=limits)), empty

    def activity(self, multipliers: Tensor) -> dict[int, Tensor]:
        """See `ConstraintSet`."""
        return self.rows.activity(multipliers)


def _joined(
    groups: Int[Tensor, "P"], owner: Int[Tensor, "R"], count: int
) -> tuple[Int[Tensor, "M"], Int[Tensor, "M"]]:
    """All pairs of a place in `groups` and a row that its group owns."""
    order, each = owner.argsort(), owner.bincount(minlength=count)
    first = each.cumsum(0) - each
    held = each[groups]
    place = torch.arange(len(groups)).repeat_interleave(held)
    rank = torch.arange(len(place)) - (held.cumsum(0) - held)[place]
    return place, order[first[groups[place]] + rank]
