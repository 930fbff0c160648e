"""How long a tree will take to close, guessed from how it grew: for shares of time, no proof."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = ["Outlook"]

#: Bounds are compared with those of a tree so many times smaller, or more.
_SMALLER = 1.5
#: Further doublings of a tree are as good as never.
_MOST_DOUBLINGS = 60.0

Outcome = TypeVar("Outcome")


@dataclass(eq=False)
class Outlook:
    """Of one search that goes on turn by turn.

    Attributes:
        roots: of the tree.
        root_lower: the least bound before it.
        seconds: spent in its turns.
    """

    roots: int
    root_lower: float
    seconds: float = 0.0
    _marks: list[tuple[int, float]] = field(init=False)

    def __post_init__(self) -> None:
        self._marks = [(self.roots, self.root_lower)]

    def timed(self, run: Callable[[], Outcome]) -> Outcome:
        """Run a turn; its seconds are added."""
        began = time.monotonic()
        try:
            return run()
        finally:
            self.seconds += time.monotonic() - began

    def by_bound(self, nodes: int, lower: float, *, jumps: bool = False) -> float | None:
        """Of a best-first tree: its least bound rises about as much whenever its nodes double.

        Args:
            nodes: of the tree now.
            lower: the least bound of its open nodes now.
            jumps: trees of few nodes, whose bound rises now and then: the mean since the roots
                counts, not how it rose of late.

        Returns:
            seconds until it is positive; `None` while the tree is too small to tell.
        """
        known = self._marks[:1] if jumps else self._marks
        before = [mark for mark in known if mark[0] * _SMALLER <= nodes]
        self._marks.append((nodes, lower))
        if lower > 0:
            return 0.0
        small, least = before[-1] if before else (nodes, -math.inf)
        if not math.isfinite(least):
            return None
        risen = (lower - least) / math.log2(nodes / small)
        if not risen > 0:
            return math.inf
        doublings = -lower / risen
        return self.seconds * (2**doublings - 1) if doublings < _MOST_DOUBLINGS else math.inf

    def by_share(self, open_share: float, depth: int) -> float | None:
        """Of a depth-first tree: it closes equal parts in equal times, about.

        Args:
            open_share: what is open of the whole, a child counting for half of its parent.
            depth: of the deepest node: where nothing is closed yet, its part comes next.

        Returns:
            seconds until nothing is open; `None` before the first split.
        """
        if not depth:
            return None if open_share else 0.0
        closed = max(1 - open_share, 0.5**depth, math.ulp(0.0))  # a power so small is zero
        return self.seconds * open_share / closed
