"""What branch and bound asks of its caller, and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.core.verdict import Reason
from closegap.search.tree import Accounting

__all__ = ["BranchOutcome", "Offer"]

#: Judges candidates `[M, *input shape]`; True stops the search.
Offer: TypeAlias = Callable[[NDArray[np.float64]], bool]


@dataclass(frozen=True, eq=False)
class BranchOutcome:
    """What the search proved.

    Attributes:
        lower: proved lower bound of each root's clause, `[roots]`; infinity when every leaf of it
            is closed (the margin is positive; how large was not asked).
        accounting: where every domain went.
        finished: nothing is open any more.
        broken: a candidate was accepted.
        limit: the node or memory limit that ended it, if one did.
        seconds: by part: bounds, rows, branching, candidates, leaves, learning; waiting for
            programs where nothing else is left to do; worker, processor time of their own thread.
    """

    lower: NDArray[np.float64]
    accounting: Accounting
    finished: bool
    broken: bool
    limit: Reason | None = None
    seconds: dict[str, float] = field(default_factory=dict)
