"""Whose turn it is: searches share the time equally, and those that pay get more of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Search", "Turns"]

#: Seconds that a turn counts beside its own, so that one which does nothing costs something.
_LEAST_SECONDS = 1e-3
#: What the share of turns that pay keeps of itself in a turn, and how much it makes time cheaper.
_MEMORY = 0.7
_REWARD = 3.0


@dataclass(eq=False)
class Search:
    """One search, and what it cost.

    Attributes:
        step: takes one turn.
        price: its seconds count so many times.
        ended: whether it has nothing left to do.
        cost: seconds spent, each times the price, and cheaper where turns paid.
        pays: recent share of its turns that lowered the least margin, the last ones most.
        last: cost of its last turn.
        running: turns of it that other threads take now.
    """

    step: Callable[[], None]
    price: float = 1.0
    ended: Callable[[], bool] = lambda: False
    cost: float = 0.0
    pays: float = 0.0
    last: float = 0.0
    running: int = 0


class Turns:
    """Hands out turns, to whoever has cost least; of equals to the first.

    Args:
        searches: at least one.
        margin: the least margin attained by any of them.
        most: turns in all.
    """

    def __init__(self, searches: Sequence[Search], margin: Callable[[], float], most: int) -> None:
        self._searches = list(searches)
        self._margin = margin
        self._left = most
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one turn.

        Returns:
            False where no search has anything left to do, or all turns were taken.
        """
        with self._lock:
            search = self._next()
            if search is None:
                return False
            search.running += 1
            self._left -= 1
        before, began = self._margin(), time.monotonic()
        try:
            search.step()
        finally:
            with self._lock:
                search.running -= 1
        spent = time.monotonic() - began + _LEAST_SECONDS
        with self._lock:
            search.pays = _MEMORY * search.pays + (1 - _MEMORY) * (self._margin() < before)
            search.last = search.price * spent / (1 + _REWARD * search.pays)
            search.cost += search.last
        return True

    def _next(self) -> Search | None:
        if self._left <= 0:
            return None
        able = [search for search in self._searches if not search.ended()]
        return min(able, key=lambda s: s.cost + s.running * s.last, default=None)
