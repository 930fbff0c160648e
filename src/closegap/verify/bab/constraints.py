"""Constraints that all subdomains of a problem share, and their multipliers in warm starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from closegap.bounds.constraints import ConstraintSet
from closegap.bounds.records import Parameters
from closegap.verify.bab.owned import OwnedCuts
from closegap.verify.bab.problem import SplitProblem
from closegap.verify.bab.walls import Walls

__all__ = ["DomainConstraints", "Restricted"]


@dataclass(frozen=True, eq=False)
class Restricted:
    """The constraints of B domains, and which domains no input belongs to, `[B]`."""

    exact: tuple[ConstraintSet, ...]
    search: tuple[ConstraintSet, ...]
    empty: Bool[Tensor, "B"]

    def imposed(self, parameters: Parameters) -> dict[int, Tensor]:
        """Coefficients that the constraints take off each node's, `[B, Q, *shape]`.

        Without them a unit whose loss rows have taken over would look as if it lost nothing.
        """
        found: dict[int, Tensor] = {}
        for place, weights in parameters.weights.items():
            for node, part in self.exact[place].terms(weights, None).coefficients.items():
                found[node] = found[node] + part if node in found else part
        return found


@dataclass(frozen=True, eq=False)
class DomainConstraints:
    """Sets that hold on every root's region.

    Attributes:
        exact: in float64.
        search: the same in float32.
    """

    exact: tuple[ConstraintSet, ...] = ()
    search: tuple[ConstraintSet, ...] = ()

    @classmethod
    def of(cls, *sets: ConstraintSet) -> DomainConstraints:
        """From float64 sets, ready for products: who times them does not time this."""
        search = tuple(s.to(torch.float32) for s in sets)
        for held in (*sets, *search):
            if isinstance(held, OwnedCuts):
                held.ready()
        return cls(sets, search)

    @property
    def width(self) -> int:
        """Multipliers a row."""
        return sum(s.size for s in self.exact)

    def restricted(
        self, problem: SplitProblem, walls: Walls, roots: Int[np.ndarray, "B"]
    ) -> Restricted:
        """The sets under the splits of each domain; only the signs that walls imply count.

        Args:
            problem: where units are.
            walls: of all units.
            roots: what each domain is below.
        """
        empty = torch.zeros(len(walls), dtype=torch.bool)
        if not self.exact:
            return Restricted((), (), empty)
        signs = (walls.low >= 0).to(torch.int8) - (walls.high <= 0).to(torch.int8)
        by_node: dict[int, Tensor] = {}
        for layer in problem.layers:
            part = signs[:, layer.units]
            if bool((part != 0).any()):
                size = problem.exact.network.nodes[layer.feed].size
                by_node[layer.feed] = torch.zeros(len(signs), size, dtype=signs.dtype)
                by_node[layer.feed][:, layer.indices] = part
        exact: list[ConstraintSet] = []
        search: list[ConstraintSet] = []
        for held, rough in zip(self.exact, self.search, strict=True):
            if isinstance(held, OwnedCuts) and isinstance(rough, OwnedCuts):
                exact.append(held.of_domains(roots))
                search.append(rough.of_domains(roots))
                continue
            left, none = held.restricted(by_node)
            exact.append(left)
            search.append(rough if left is held else left.to(torch.float32))
            if none is not None:
                empty = empty | none
        return Restricted(tuple(exact), tuple(search), empty)

    def unpack(self, payload: Float[Tensor, "B Q width"]) -> dict[int, Tensor]:
        """The multipliers of each set, from a warm start."""
        parts = torch.split(payload, [s.size for s in self.exact], dim=2)
        return dict(enumerate(parts))

    def pack(self, parameters: Parameters, shape: tuple[int, int]) -> Float[Tensor, "B Q width"]:
        """The inverse of `unpack`, for B domains and Q rows; zero where there are none."""
        parts = [torch.zeros(*shape, 0)]
        for place, held in enumerate(self.exact):
            weights = parameters.weights.get(place)
            given = torch.zeros(1, 1, held.size) if weights is None else weights.detach()
            parts.append(given.to(torch.float32).expand(*shape, held.size))
        return torch.cat(parts, dim=2)
