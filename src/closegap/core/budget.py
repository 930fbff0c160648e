"""What an engine may spend. All clocks are monotonic; seconds everywhere."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from numbers import Integral

from closegap.core.errors import OptionError

__all__ = ["DEFAULT_MEMORY_BYTES", "Budget"]

DEFAULT_MEMORY_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Budget:
    """A deadline, a node limit, a memory limit and a seed.

    Attributes:
        deadline: on `time.monotonic()`'s clock; infinity for none.
        nodes: how many subproblems each tree may have; `None` for no limit. With a limit a tree
            is the same in every run, for its steps then do not follow the clock.
        memory: bytes of working tensors an engine may hold at a time.
        seed: of every random choice.
        threads: native threads one solver or tensor library may use.

    Raises:
        OptionError: the seed is not a whole number of at most 63 bits.
    """

    deadline: float = math.inf
    nodes: int | None = None
    memory: int = DEFAULT_MEMORY_BYTES
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if not (isinstance(self.seed, Integral) and 0 <= self.seed < 2**63):
            raise OptionError(f"a seed is a whole number from 0 to 2^63 - 1, got {self.seed}")

    @classmethod
    def of_seconds(
        cls,
        seconds: float,
        *,
        nodes: int | None = None,
        memory: int = DEFAULT_MEMORY_BYTES,
        seed: int = 0,
        threads: int = 1,
    ) -> Budget:
        """A budget that ends `seconds` from now."""
        return cls(time.monotonic() + seconds, nodes, memory, seed, threads)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def expired(self) -> bool:
        """True once the deadline has passed."""
        return time.monotonic() >= self.deadline

    def fewest_nodes(self, limit: int | None) -> int | None:
        """How many nodes a tree may have that has a limit of its own; `None` for no limit."""
        limits = (self.nodes, limit)
        return min((nodes for nodes in limits if nodes is not None), default=None)

    def within(self, seconds: float) -> Budget:
        """The same budget, ending at the latest `seconds` from now."""
        return replace(self, deadline=min(self.deadline, time.monotonic() + seconds))
