"""Rows that support hulls of groups of neurons; splits move them in.

The limit of a row `p . (z, h) >= limit` is the least of `p . (v, act(v))` over the vertices that
are allowed (`bounds/multineuron/hulls.py`), fewer of them under splits. Each row has one
multiplier, and a few that cut off what a bound rests on do most of what all facets would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.constraints import CutPart, LinearCuts, Terms
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.records import Interval
from closegap.bounds.regions import underflow
from closegap.core.numerics import gamma
from closegap.graph.network import Node

__all__ = ["HullCuts"]


@dataclass(frozen=True, eq=False)
class HullCuts:
    """Rows over groups of one layer, as a `ConstraintSet`.

    Attributes:
        hulls: the groups.
        owner: the group of each row, `[R]`.
        normals: weights of `(z, h)` in each row, float64 `[R, 2k]`.
        least: of each row at each vertex of its group, a lower bound in spite of rounding and the
            vertices' tolerance, float64 `[R, V]`.
        rows: the same as linear cuts, limits `[B or 1, R]`.
    """

    hulls: VertexHulls
    owner: Int[Tensor, "R"]
    normals: Float[Tensor, "R W"]
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
        lost = lost + 8 * (size + 1) * underflow(torch.float64)
        least = value - (1 + allowance) * lost
        neurons, place = torch.unique(hulls.members, return_inverse=True)
        parts = []
        for first, node in ((0, hulls.feed), (size, hulls.activation)):
            spread = normals.new_zeros(len(owner), len(neurons))
            spread.scatter_(1, place[owner], -normals[:, first : first + size])
            parts.append(CutPart.of(node, hulls.shape, neurons, spread))
        return cls(hulls, owner, normals, least, LinearCuts(tuple(parts), -least.amin(dim=1)))

    @classmethod
    def joined(cls, cuts: Sequence[HullCuts]) -> HullCuts:
        """All rows over groups of one layer, in this order."""
        firsts = accumulate((len(c.hulls.members) for c in cuts), initial=0)
        owner = torch.cat([first + c.owner for first, c in zip(firsts, cuts, strict=False)])
        hulls = VertexHulls.joined([c.hulls for c in cuts])
        return cls.of(hulls, owner, torch.cat([c.normals for c in cuts]))

    def part(self, rows: Int[Tensor, "M"]) -> HullCuts:
        """Some of the rows, and the groups they need."""
        groups, owner = torch.unique(self.owner[rows], return_inverse=True)
        return HullCuts.of(self.hulls.part(groups), owner, self.normals[rows])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What makes the same rows again."""
        return {
            **self.hulls.arrays(),
            "owner": np.asarray(self.owner.numpy()),
            "normals": np.asarray(self.normals.numpy()),
        }

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], nodes: Sequence[Node]
    ) -> HullCuts:
        """The rows whose `arrays()` these are.

        Args:
            arrays: by name; as they are, they are believed.
            nodes: of the network.

        Raises:
            KeyError: an array is missing.
            ValueError: they do not fit together, or the network.
        """
        hulls = VertexHulls.of_arrays(arrays, nodes)
        owner, normals = (torch.tensor(arrays[n]) for n in ("owner", "normals"))
        if not (
            owner.dtype == torch.int64
            and normals.dtype == torch.float64
            and normals.shape == (len(owner), 2 * hulls.size)
            and bool(((owner >= 0) & (owner < len(hulls.members))).all())
        ):
            raise ValueError("rows of groups of neurons are damaged, or of another network")
        return cls.of(hulls, owner, normals)

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
