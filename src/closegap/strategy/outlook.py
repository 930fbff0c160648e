"""How long a tree will take to close, guessed from how it grew: for shares of time, no proof."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from closegap.core.budget import Budget
from closegap.search.tree import Tree

__all__ = ["Outlook", "Patience"]

#: Bounds are compared with those of a tree so many times smaller, or more.
_SMALLER = 1.5
#: Further doublings of a tree are as good as never.
_MOST_DOUBLINGS = 60.0

#: Patience looks again when a tree has grown by so much, and judges how it rose since it was so
#: many times smaller.
_GROWN, _SINCE = 1.5, 4.0
#: Trees of fewer nodes, and in this first share of their time, show nothing yet.
_FEWEST, _FIRST = 100, 0.1

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

    def by_bound(
        self, nodes: int, lower: float, *, jumps: bool = False, smaller: float = _SMALLER
    ) -> float | None:
        """Of a best-first tree: its least bound rises about as much whenever its nodes double.

        Args:
            nodes: of the tree now.
            lower: the least bound of its open nodes now.
            jumps: trees of few nodes, whose bound rises now and then: the mean since the roots
                counts, not how it rose of late.
            smaller: its bound is compared with that when it was so many times smaller, or more.

        Returns:
            seconds until it is positive; `None` while the tree is too small to tell.
        """
        known = self._marks[:1] if jumps else self._marks
        before = [mark for mark in known if mark[0] * smaller <= nodes]
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


class Patience:
    """Says when a best-first tree is not worth the rest of its time.

    A tree is left once its bound, as it rose of late, would not be positive in so many times the
    time it has left. While fewer nodes are open than when it was looked at last, it is closing,
    whatever its bound does. Where time has no end, and under a node limit, where trees do not
    follow the clock, patience has no end either.

    Args:
        tree: of one clause.
        budget: the tree's.
        pace: see above; infinity for no end.
        clock: seconds.
    """

    def __init__(
        self,
        tree: Tree,
        budget: Budget,
        pace: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree, self._budget, self._clock = tree, budget, clock
        self._pace = math.inf if budget.nodes is not None else pace
        self._began, self._sure = clock(), _FIRST * budget.remaining
        self._outlook: Outlook | None = None
        self._next, self._open = 0.0, 0

    def ended(self) -> bool:
        """Asked before every step of the search: True iff it is to be left."""
        nodes = len(self._tree)
        if nodes < self._next or not nodes:
            return False
        self._next = _GROWN * nodes
        lower, open_ = float(self._tree.least_lower().min()), len(self._tree.open_nodes())
        if self._outlook is None:
            self._outlook = Outlook(nodes, lower)
        closing, self._open = open_ < self._open, open_
        spent = self._outlook.seconds = self._clock() - self._began
        wanted = self._outlook.by_bound(nodes, lower, smaller=_SINCE)
        if wanted is None or closing or nodes < _FEWEST or spent < self._sure:
            return False
        return wanted > self._pace * self._budget.remaining
