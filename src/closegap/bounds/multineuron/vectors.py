"""Hulls of groups of neurons by free vectors of weights, two numbers a neuron.

Whatever `p` is, `p . (z, h)` is nowhere less than at the best allowed vertex
(`bounds/multineuron/hulls.py`), so that the weights themselves may be climbed on: the best of them
give what all facets of all hulls would. Rows with fixed weights have one multiplier each instead
(`bounds/multineuron/cuts.py`); their sum, weighted with these, is where a vector begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.constraints import SETS, Terms, scattered, unit_of
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.records import Interval
from closegap.bounds.regions import underflow
from closegap.core.numerics import gamma
from closegap.graph.network import Node

__all__ = ["HullVectors"]


@dataclass(frozen=True, eq=False)
class HullVectors:
    """Vectors over groups of one layer, as a `ConstraintSet`: `2k` multipliers a group.

    Attributes:
        hulls: the groups; of the dtype that bounds are computed in.
        units: what a multiplier of one stands for, a group, `[G]`.
        out: vertices that no input of a domain needs, `[B or 1, G, V]`.
        scale: see `ConstraintSet`.
    """

    hulls: VertexHulls
    units: Float[Tensor, "G"]
    out: Bool[Tensor, "B G V"]
    scale: float = 0.1

    @classmethod
    def of(cls, hulls: VertexHulls, units: Float[Tensor, "G"]) -> HullVectors:
        """Vectors for all groups, all vertices allowed."""
        return cls(hulls, units, torch.zeros(1, *hulls.lifted.shape[:2], dtype=torch.bool))

    @classmethod
    def of_cuts(
        cls, cuts: HullCuts, multipliers: Float[Tensor, "B Q R"]
    ) -> tuple[HullVectors, Float[Tensor, "B Q size"]]:
        """Vectors over the groups of rows, and those that say at least as much as the rows do.

        Args:
            cuts: every group has one row or more.
            multipliers: of the rows.
        """
        count, width = len(cuts.hulls.members), cuts.normals.shape[1]
        largest = cuts.normals.abs().amax(dim=1)
        units = largest.new_zeros(count).scatter_reduce(0, cuts.owner, largest, "amax")
        shares = (cuts.normals / units[cuts.owner, None]).to(multipliers.dtype)
        each = multipliers.clamp(min=0)[..., None] * shares
        vectors = each.new_zeros(*multipliers.shape[:2], count, width)
        vectors = vectors.index_add(2, cuts.owner, each)
        return cls.of(cuts.hulls, units), vectors.flatten(2)

    @property
    def size(self) -> int:
        """How many multipliers there are."""
        return len(self.units) * self.hulls.lifted.shape[2]

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What makes the same vectors again."""
        return {**self.hulls.arrays(), "units": np.asarray(self.units.numpy())}

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], nodes: Sequence[Node]
    ) -> HullVectors:
        """The set whose `arrays()` these are.

        Raises:
            KeyError: an array is missing.
            ValueError: they do not fit together, or the network.
        """
        hulls, units = VertexHulls.of_arrays(arrays, nodes), torch.tensor(arrays["units"])
        if units.dtype != torch.float64 or units.shape != (len(hulls.members),):
            raise ValueError("vectors over groups of neurons are damaged, or of another network")
        return cls.of(hulls, units)

    def terms(self, multipliers: Tensor, values: Sequence[Interval] | None) -> Terms:
        """See `ConstraintSet`: `p . (z, h) >= min of p . (v, act(v))`, the sum over groups."""
        hulls, half = self.hulls, self.hulls.size
        width = 2 * half
        vectors = multipliers.unflatten(2, (-1, width)) * self.units[:, None]
        least = self._least(vectors)
        size = vectors.abs()
        constant = least.sum(dim=2) - (size.sum(dim=3) * hulls.tolerance).sum(dim=2)
        places = hulls.members.flatten()
        sides = (hulls.feed, vectors[..., :half]), (hulls.activation, vectors[..., half:])
        coefficients = {node: scattered(v.flatten(2), places, hulls.shape) for node, v in sides}
        rounding = constant.new_zeros(constant.shape)
        if values is not None:
            # Every node may send coefficients to where these are added.
            sums = self.size + len(values) + SETS
            reach = torch.cat(
                [values[i].magnitude.flatten(1)[:, hulls.members] for i, _ in sides], dim=2
            )
            reach = reach + hulls.lifted.abs().amax(dim=1) + hulls.tolerance[:, None]
            total = (size * reach[:, None]).sum(dim=(2, 3))
            met = reach.sum(dim=(1, 2))[:, None] + self.size
            vanished = 8 * (self.size + 2) * underflow(vectors.dtype) * (met + 2)
            rounding = 2 * gamma(2 * sums, unit_of(vectors.dtype)) * total + vanished
        return Terms(coefficients, constant, rounding)

    def _least(self, vectors: Float[Tensor, "B Q G W"]) -> Float[Tensor, "B Q G"]:
        """The value at the best allowed vertex; its slope is that vertex."""
        lifted = self.hulls.lifted
        with torch.no_grad():
            flat = vectors.flatten(0, 1).transpose(0, 1)
            value = torch.bmm(flat, lifted.transpose(1, 2)).transpose(0, 1)
            value = value.unflatten(0, vectors.shape[:2])
            best = value.masked_fill(self.out[:, None], torch.inf).argmin(dim=3)
        groups = torch.arange(lifted.shape[0])
        return (vectors * lifted[groups, best]).sum(dim=3)

    def project(self, multipliers: Tensor) -> Tensor:
        """See `ConstraintSet`: every vector is in range."""
        return multipliers

    def select(self, domains: Tensor) -> HullVectors:
        """See `ConstraintSet`."""
        return self if len(self.out) == 1 else replace(self, out=self.out[domains])

    def to(self, dtype: torch.dtype) -> HullVectors:
        """See `ConstraintSet`."""
        hulls = self.hulls
        near = replace(hulls, lifted=hulls.lifted.to(dtype), tolerance=hulls.tolerance.to(dtype))
        return replace(self, hulls=near, units=self.units.to(dtype))

    def restricted(self, signs: Mapping[int, Tensor]) -> tuple[HullVectors, Tensor | None]:
        """See `ConstraintSet`: the vertices that obey the splits."""
        found = self.hulls.excluded(signs)
        if found is None:
            return self, None
        none = found.out.all(dim=1)
        count = len(signs[self.hulls.feed])
        empty = torch.zeros(count, dtype=torch.bool)
        empty[found.domain[none]] = True
        out = self.out.expand(count, -1, -1).clone()
        out[found.domain, found.group] |= found.out & ~none[:, None]
        return replace(self, out=out), empty
