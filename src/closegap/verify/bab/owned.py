"""Linear cuts of which every root of a tree has its own, in one set of multipliers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.constraints import LinearCuts, Terms
from closegap.bounds.records import Interval
from closegap.graph.network import Node

__all__ = ["OwnedCuts"]


@dataclass(frozen=True, eq=False)
class OwnedCuts:
    """A `ConstraintSet`: multiplier `k` of a domain is about row `k` of its root's cuts.

    Multipliers past a root's last row, and all of a root without cuts, count for nothing.

    Attributes:
        cuts: by root, limits `[rows]`.
        owner: the root of each domain, `[B]`.
        scale: see `ConstraintSet`.
    """

    cuts: Mapping[int, LinearCuts]
    owner: Int[Tensor, "B"]
    scale: float = 1.0

    @classmethod
    def of(cls, cuts: Mapping[int, LinearCuts]) -> OwnedCuts:
        """The cuts of some roots, for no domains yet."""
        return cls(cuts, torch.zeros(0, dtype=torch.int64))

    @property
    def size(self) -> int:
        """Multipliers a row: as many as the greatest set has."""
        return max(cuts.size for cuts in self.cuts.values())

    def of_domains(self, roots: Int[np.ndarray, "B"]) -> OwnedCuts:
        """The set of domains below these roots."""
        return replace(self, owner=torch.as_tensor(roots))

    def terms(self, multipliers: Tensor, values: Sequence[Interval] | None) -> Terms:
        """See `ConstraintSet`; intervals are those of all domains."""
        held = multipliers.expand(len(self.owner), -1, -1)
        none = held.new_zeros(held.shape[:2])
        places, found = [], []
        for root, place in self._present():
            cuts = self.cuts.get(root)
            if cuts is not None:
                places.append(place)
                found.append(cuts.terms(held[place, :, : cuts.size], values))
        if not found:
            return Terms({}, none, none)
        nodes = dict.fromkeys(node for terms in found for node in terms.coefficients)
        coefficients = {
            node: _joined(places, [t.coefficients.get(node) for t in found], len(none))
            for node in nodes
        }
        constant = _joined(places, [t.constant for t in found], len(none))
        return Terms(
            coefficients, constant, _joined(places, [t.rounding for t in found], len(none))
        )

    def ready(self) -> None:
        """Make what all products share now, not in the first of them."""
        for cuts in self.cuts.values():
            cuts.ready()

    def project(self, multipliers: Tensor) -> Tensor:
        """See `ConstraintSet`."""
        return multipliers.clamp(min=0)

    def select(self, domains: Tensor) -> OwnedCuts:
        """See `ConstraintSet`."""
        return replace(self, owner=self.owner[domains])

    def restricted(self, signs: Mapping[int, Tensor]) -> tuple[OwnedCuts, None]:
        """See `ConstraintSet`: splits change nothing."""
        return self, None

    def to(self, dtype: torch.dtype) -> OwnedCuts:
        """See `ConstraintSet`."""
        return replace(self, cuts={root: cuts.to(dtype) for root, cuts in self.cuts.items()})

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What makes the same cuts again."""
        found: dict[str, NDArray[np.generic]] = {"roots": np.array(sorted(self.cuts), np.int64)}
        for root, cuts in self.cuts.items():
            found.update({f"{root}_{name}": array for name, array in cuts.arrays().items()})
        return found

    @classmethod
    def of_arrays(
        cls, arrays: Mapping[str, NDArray[np.generic]], nodes: Sequence[Node]
    ) -> OwnedCuts:
        """The cuts whose `arrays()` these are.

        Args:
            arrays: by name; as they are, they are believed.
            nodes: of the network.

        Raises:
            KeyError: an array is missing.
            ValueError: they do not fit together, or the network.
        """
        found = {}
        for root in arrays["roots"].astype(np.int64).tolist():
            start = f"{root}_"
            part = {n[len(start) :]: a for n, a in arrays.items() if n.startswith(start)}
            found[root] = LinearCuts.of_arrays(part, nodes)
        if not found:
            raise ValueError("linear cuts are damaged: they have no root")
        return cls.of(found)

    def _present(self) -> list[tuple[int, Tensor]]:
        """The roots of the domains, and which domains are below each."""
        roots = torch.unique(self.owner).tolist()
        return [(root, (self.owner == root).nonzero()[:, 0]) for root in roots]


def _joined(places: Sequence[Tensor], parts: Sequence[Tensor | None], count: int) -> Tensor:
    """Parts at their places among `count`, zero elsewhere and where a part is `None`."""
    held = [(place, part) for place, part in zip(places, parts, strict=True) if part is not None]
    order = torch.cat([place for place, _ in held])
    whole = torch.cat([part for _, part in held])
    if len(held) == 1 and len(order) == count:
        return whole
    return whole.new_zeros(count, *whole.shape[1:]).index_copy(0, order, whole)
