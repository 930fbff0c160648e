"""Hulls of groups of neurons as multipliers: one vector of `2k` numbers for each group.

For a group with inputs `z`, outputs `h = act(z)` and any `p = (p_z, p_h)`,

    p_z . z + p_h . h >= min over allowed vertices v of (p_z . v + p_h . act(v)) - tolerance |p|_1

on every input whose `z` lies in the octahedron and obeys the splits. Proof: the planes `z_i = 0`
cut the part of the octahedron that the splits allow into pieces, on each of which the left side is
linear and attains its least value at a vertex. That vertex `w` has `sign_i w_i >= 0` at every
split member. A vertex `v` of the list lies within `tolerance` of it, entry by entry, hence is
allowed (`sign_i v_i >= -tolerance`), and as `act` is 1-Lipschitz its value differs by no more than
`tolerance |p|_1`. So if no vertex is allowed, there is no such input either.

Taking the best `p` gives what all facets of the hull would give, by duality; no facet is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.constraints import Terms, scattered, unit_of
from closegap.bounds.records import Interval
from closegap.core.numerics import gamma

__all__ = ["VertexHulls"]


@dataclass(frozen=True, eq=False)
class VertexHulls:
    """Groups of `k` neurons of one layer, by the vertices of their octahedra's pieces.

    Attributes:
        feed: the feeding node.
        activation: a ReLU or leaky ReLU.
        shape: of both nodes.
        members: flat indices of the neurons, `[G, k]`.
        lifted: `(v, act(v))`, `[G, V, 2k]`.
        tolerance: of the vertices, `[G]`.
        scale: see `ConstraintSet`.
        barred: infinite at vertices that a domain's splits exclude, else zero, `[G, B or 1, V]`;
            a group that is left with none keeps all.
    """

    feed: int
    activation: int
    shape: tuple[int, ...]
    members: Int[Tensor, "G k"]
    lifted: Float[Tensor, "G V W"]
    tolerance: Float[Tensor, "G"]
    scale: float = 1.0
    barred: Float[Tensor, "G B V"] | None = None

    @property
    def size(self) -> int:
        """Multipliers a row: `2k` for each group, those on inputs before those on outputs."""
        return 2 * self.members.numel()

    @property
    def _width(self) -> int:
        return self.lifted.shape[2]

    def terms(self, multipliers: Tensor, values: Sequence[Interval] | None) -> Terms:
        """See `ConstraintSet`."""
        groups, size = self.members.shape
        price = multipliers.unflatten(2, (groups, self._width))
        least = self._least(price)
        constant = (price * least).sum(dim=(2, 3))
        flat = self.members.flatten()
        inner, outer = price[..., :size].flatten(2), price[..., size:].flatten(2)
        coefficients = {
            self.feed: scattered(inner, flat, self.shape),
            self.activation: scattered(outer, flat, self.shape),
        }
        rounding = constant.new_zeros(constant.shape)
        if values is not None:
            rounding = self._rounding(price, values)
        return Terms(coefficients, constant, rounding)

    def project(self, multipliers: Tensor) -> Tensor:
        """See `ConstraintSet`: any are in range."""
        return multipliers

    def select(self, domains: Tensor) -> VertexHulls:
        """See `ConstraintSet`."""
        if self.barred is None or self.barred.shape[1] == 1:
            return self
        return replace(self, barred=self.barred[:, domains])

    def to(self, dtype: torch.dtype) -> VertexHulls:
        """See `ConstraintSet`."""
        barred = None if self.barred is None else self.barred.to(dtype)
        lifted, tolerance = self.lifted.to(dtype), self.tolerance.to(dtype)
        return replace(self, lifted=lifted, tolerance=tolerance, barred=barred)

    def restricted(self, signs: Mapping[int, Tensor]) -> tuple[VertexHulls, Tensor | None]:
        """See `ConstraintSet`: only the vertices that obey the splits are left."""
        if self.feed not in signs:
            return self, None
        size = self.members.shape[1]
        held = signs[self.feed][:, self.members].to(self.lifted.dtype)
        if not bool(held.any()):
            return self, None
        room = -self.tolerance[:, None, None]
        out = torch.zeros(len(self.members), len(held), self.lifted.shape[1], dtype=torch.bool)
        for member in range(size):
            side = held[:, :, member].T[:, :, None] * self.lifted[:, None, :, member]
            out |= side < room
        none = out.all(dim=2)
        barred = torch.zeros_like(out, dtype=self.lifted.dtype)
        barred.masked_fill_(out & ~none[..., None], torch.inf)
        return replace(self, barred=barred), none.any(dim=0)

    def activity(self, multipliers: Tensor) -> dict[int, Tensor]:
        """See `ConstraintSet`."""
        groups, size = self.members.shape
        price = multipliers.unflatten(2, (groups, self._width)).abs().mean(dim=1, keepdim=True)
        both = price[..., :size] + price[..., size:]
        flat = scattered(both.flatten(2), self.members.flatten(), (prod(self.shape),))
        return {self.feed: flat[:, 0]}

    def _least(self, price: Float[Tensor, "B Q G W"]) -> Float[Tensor, "B Q G W"]:
        """The allowed vertex of least value; its value is linear in the price around it."""
        with torch.no_grad():
            domains, rows, groups, width = price.shape
            flat = price.permute(2, 0, 1, 3).reshape(groups, domains * rows, width)
            value = torch.bmm(flat, self.lifted.transpose(1, 2))
            if self.barred is not None:
                value = value.reshape(groups, domains, rows, -1) + self.barred[:, :, None]
            where = value.reshape(groups, domains * rows, -1).argmin(dim=2)
            found = self.lifted[torch.arange(groups)[:, None], where]
            return found.reshape(groups, domains, rows, width).permute(1, 2, 0, 3)

    def _rounding(self, price: Tensor, values: Sequence[Interval]) -> Tensor:
        """Of the vertices, of the least value among them, and of the sums over groups."""
        groups, size = self.members.shape
        unit = unit_of(price.dtype)
        paid = price.abs()
        reach = self.lifted.abs().amax(dim=1)
        vertex = (paid.sum(dim=3) * self.tolerance).sum(dim=2)
        chosen = 4 * gamma(self._width * groups + 4, unit) * (paid * reach).sum(dim=(2, 3))
        depth = int(torch.bincount(self.members.flatten()).max()) if groups else 0
        summed = torch.zeros_like(vertex)
        for node, part in ((self.feed, paid[..., :size]), (self.activation, paid[..., size:])):
            size_at = values[node].magnitude.flatten(1)[:, None, self.members.flatten()]
            summed = summed + (part.flatten(2) * size_at).sum(dim=2)
        return (1 + 8 * unit) * vertex + chosen + 2 * gamma(depth + 4, unit) * summed
