"""Hulls of groups of neurons, by their vertices.

For a group with inputs `z`, outputs `h = act(z)` and any `p = (p_z, p_h)`,

    p_z . z + p_h . h >= min over allowed vertices v of (p_z . v + p_h . act(v)) - tolerance |p|_1

on every input whose `z` lies in the octahedron and obeys the splits. Proof: the planes `z_i = 0`
cut the part of the octahedron that the splits allow into pieces, on each of which the left side is
linear and attains its least value at a vertex. That vertex `w` has `sign_i w_i >= 0` at every
split member. A vertex `v` of the list lies within `tolerance` of it, entry by entry, hence is
allowed (`sign_i v_i >= -tolerance`), and as `act` is 1-Lipschitz its value differs by no more than
`tolerance |p|_1`. So if no vertex is allowed, there is no such input either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.graph.network import Node

__all__ = ["Excluded", "VertexHulls"]


@dataclass(frozen=True, eq=False)
class Excluded:
    """What splits leave out of hulls: P pairs of a domain and a group with a split member.

    Attributes:
        domain: of each pair.
        group: of each pair.
        out: the vertices that no input of the domain needs.
    """

    domain: Int[Tensor, "P"]
    group: Int[Tensor, "P"]
    out: Bool[Tensor, "P V"]


@dataclass(frozen=True, eq=False)
class VertexHulls:
    """Groups of `k` neurons of one layer, by the vertices of their octahedra's pieces.

    Attributes:
        feed: the feeding node.
        activation: a ReLU or leaky ReLU.
        shape: of both nodes.
        members: flat indices of the neurons, `[G, k]`.
        lifted: `(v, act(v))`, float64 `[G, V, 2k]`.
        tolerance: of the vertices, `[G]`.
    """

    feed: int
    activation: int
    shape: tuple[int, ...]
    members: Int[Tensor, "G k"]
    lifted: Float[Tensor, "G V W"]
    tolerance: Float[Tensor, "G"]

    @property
    def size(self) -> int:
        """Neurons a group (k)."""
        return self.members.shape[1]

    @classmethod
    def joined(cls, hulls: Sequence[VertexHulls]) -> VertexHulls:
        """All groups of hulls of one layer, equally many neurons a group."""
        first = hulls[0]
        most = max(h.lifted.shape[1] for h in hulls)
        padding = [h.lifted[:, :1].expand(-1, most - h.lifted.shape[1], -1) for h in hulls]
        return cls(
            feed=first.feed,
            activation=first.activation,
            shape=first.shape,
            members=torch.cat([h.members for h in hulls]),
            lifted=torch.cat(
                [torch.cat([h.lifted, p], dim=1) for h, p in zip(hulls, padding, strict=True)]
            ),
            tolerance=torch.cat([h.tolerance for h in hulls]),
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What makes the same hulls again."""
        return {
            "activation": np.array([self.activation]),
            "members": np.asarray(self.members.numpy()),
            "lifted": np.asarray(self.lifted.numpy()),
            "tolerance": np.asarray(self.tolerance.numpy()),
        }

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], nodes: Sequence[Node]
    ) -> VertexHulls:
        """The hulls whose `arrays()` these are.

        Args:
            arrays: by name; as they are, they are believed.
            nodes: of the network.

        Raises:
            KeyError: an array is missing.
            ValueError: they do not fit together, or the network.
        """
        activation = int(arrays["activation"][0])
        members, lifted, tolerance = (
            torch.tensor(arrays[n]) for n in ("members", "lifted", "tolerance")
        )
        groups, size = members.shape
        if not (
            0 < activation < len(nodes)
            and members.dtype == torch.int64
            and lifted.dtype == tolerance.dtype == torch.float64
            and lifted.shape == (groups, lifted.shape[1], 2 * size)
            and tolerance.shape == (groups,)
            and bool(((members >= 0) & (members < nodes[activation].size)).all())
        ):
            raise ValueError("groups of neurons are damaged, or of another network")
        node = nodes[activation]
        return cls(node.inputs[0], activation, node.shape, members, lifted, tolerance)

    def part(self, groups: Int[Tensor, "M"]) -> VertexHulls:
        """Some of the groups."""
        members, lifted, tolerance = self.members, self.lifted, self.tolerance
        return VertexHulls(
            self.feed,
            self.activation,
            self.shape,
            members[groups],
            lifted[groups],
            tolerance[groups],
        )

    def excluded(self, signs: Mapping[int, Tensor]) -> Excluded | None:
        """The vertices that splits leave out of the hulls; `None` where none of them is split.

        Args:
            signs: see `ConstraintSet.restricted`.
        """
        if self.feed not in signs:
            return None
        held = signs[self.feed][:, self.members]
        domain, group = held.any(dim=2).nonzero(as_tuple=True)
        if not len(domain):
            return None
        side = held[domain, group].to(self.lifted.dtype)
        room = -self.tolerance[group, None]
        out = torch.zeros(len(domain), self.lifted.shape[1], dtype=torch.bool)
        for member in range(self.members.shape[1]):
            out |= side[:, member, None] * self.lifted[group, :, member] < room
        return Excluded(domain, group, out)
