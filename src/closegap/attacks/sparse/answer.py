"""What the tree found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from closegap.core.verdict import Reason
from closegap.search.tree import Accounting

__all__ = ["SparseAnswer"]


@dataclass(frozen=True, eq=False)
class SparseAnswer:
    """A bracket of the least distance.

    Attributes:
        lower: proved, rounding included: no counterexample is nearer.
        upper: distance of `witness`, rounded up; infinity where none was found.
        witness: float32, in the network's input shape, as it was judged.
        closed: whether every node is closed: `upper - lower` is within the tolerance, or there is
            no counterexample at all.
        reason: why it is not, or `None`.
        accounting: of all nodes of the whole tree.
        staged: how many nodes trees within smaller distances had.
        programs: how many were solved.
        units: undecided neurons of the last ground.
        seconds: wall-clock, by part.
        history: seconds, lower and upper end after every improvement of either.
        notes: why there is no tree, for people.
    """

    lower: float
    upper: float
    witness: NDArray[np.float32] | None
    closed: bool
    reason: Reason | None
    accounting: Accounting
    staged: int = 0
    programs: int = 0
    units: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    history: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()

    @property
    def nodes(self) -> int:
        """Nodes created."""
        return self.accounting.created + self.staged
