"""What is known of a domain's inputs that break an open clause, and is handed on to its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.core.errors import SolverError
from closegap.search.slots import SlotStore
from closegap.verify.bab.walls import Walls
from closegap.verify.layered.halfspaces import HalfSpaces

__all__ = ["DomainStore", "Known"]


@dataclass(frozen=True, eq=False)
class Known:
    """Holds for every input of B domains that breaks an open clause of the domain.

    Attributes:
        units: bounds of each unit; infinite where nothing is known.
        open_: which clauses are not proved, `[B, K]`.
        broken: half-spaces of the first open clauses, one each; a row of zeros says nothing.
    """

    units: Walls
    open_: Bool[Tensor, "B K"]
    broken: HalfSpaces

    def select(self, which: Tensor | Int[np.ndarray, "M"]) -> Known:
        """Of some domains."""
        broken = HalfSpaces(self.broken.normals[which], self.broken.offsets[which])
        return Known(self.units.select(which), self.open_[which], broken)

    def join(self, other: Known) -> Known:
        """Of both, one after the other."""
        mine, more = self.broken, other.broken
        return Known(
            self.units.join(other.units),
            torch.cat([self.open_, other.open_]),
            HalfSpaces(
                torch.cat([mine.normals, more.normals]), torch.cat([mine.offsets, more.offsets])
            ),
        )

    def first_clause(self) -> Known:
        """Where the first open clause is broken."""
        first = self.open_ & (self.open_.cumsum(dim=1) == 1)
        return Known(self.units, first, self.broken)

    def other_clauses(self) -> Known:
        """Where another one is."""
        later = self.open_ & (self.open_.cumsum(dim=1) > 1)
        normals, offsets = (
            self.broken.normals.roll(-1, dims=1),
            self.broken.offsets.roll(-1, dims=1),
        )
        return Known(self.units, later, HalfSpaces(normals, offsets))

    def spaces(self) -> HalfSpaces:
        """What holds wherever any open clause is broken: with one of them, its half-space."""
        one = (self.open_.sum(dim=1) == 1)[:, None]
        first = self.broken.of_rows(torch.zeros(len(one), 1, dtype=torch.long))
        return HalfSpaces(first.normals * one[..., None], first.offsets * one)


class DomainStore:
    """Keeps what is known of open domains, in float64.

    Args:
        units: how many units there are.
        inputs: how many inputs.
        clauses: how many clauses.
        planes: half-spaces a domain, at most.
    """

    def __init__(self, units: int, inputs: int, clauses: int, planes: int) -> None:
        self._sizes = units, inputs, clauses
        self._planes = planes
        self._rows = SlotStore(2 * units + clauses + (inputs + 1) * planes, dtype=np.float64)

    def root(self) -> Known:
        """Of the whole region."""
        units, inputs, clauses = self._sizes
        none = Walls.at_zero(np.zeros((1, units), np.int8))
        planes = torch.zeros(1, self._planes, inputs + 1, dtype=torch.float64)
        open_ = torch.ones(1, clauses, dtype=torch.bool)
        return Known(none, open_, HalfSpaces(planes[..., :-1], planes[..., -1]))

    def put(self, nodes: Int[np.ndarray, "B"], known: Known) -> None:
        """Keep what is known of nodes."""
        both = torch.cat([known.broken.normals, known.broken.offsets[..., None]], dim=2)
        kept = torch.zeros(len(nodes), self._planes, both.shape[2], dtype=torch.float64)
        count = min(self._planes, both.shape[1])
        kept[:, :count] = both[:, :count]
        parts = [known.units.low, known.units.high, known.open_.double(), kept.flatten(1)]
        self._rows.put(nodes, torch.cat(parts, dim=1).numpy())

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything, to be kept."""
        held, rows = self._rows.held()
        return {"held": held, "known": rows}

    def restore(
        self, arrays: Mapping[str, NDArray[np.generic]], nodes: Int[np.ndarray, "B"]
    ) -> None:
        """Take up what `arrays` gave.

        Args:
            arrays: of a store like this one, which is empty.
            nodes: that must be known.

        Raises:
            ValueError: other nodes are, or a number of one is none, or no clause is open there.
        """
        known, (units, _, clauses) = arrays["known"], self._sizes
        open_ = known[:, 2 * units : 2 * units + clauses]
        if not np.array_equal(arrays["held"], nodes) or np.isnan(known).any():
            raise ValueError("what is known of the tree's open nodes is damaged")
        if not (np.isin(open_, (0.0, 1.0)).all() and open_.any(axis=1).all()):
            raise ValueError("an open node of the tree has no open clause")
        self._rows.put(nodes, known)

    def take(self, nodes: Int[np.ndarray, "B"]) -> Known:
        """What was kept of nodes; it is forgotten here.

        Raises:
            SolverError: nothing was kept of one: without clauses it would count as proved.
        """
        units, inputs, clauses = self._sizes
        kept, found = self._rows.take(nodes)
        if not found.all():
            raise SolverError("a domain of branch and bound was lost: nothing it proved is used")
        rows = torch.as_tensor(kept)
        planes = self._planes * (inputs + 1)
        low, high, open_, flat = rows.split([units, units, clauses, planes], dim=1)
        both = flat.reshape(-1, self._planes, inputs + 1)
        return Known(Walls(low, high), open_ > 0, HalfSpaces(both[..., :-1], both[..., -1]))
