"""Whether bounding the children of a shortlist is worth its time."""

from __future__ import annotations

import time

import numpy as np
from jaxtyping import Float

from closegap.core.numerics import TINY

__all__ = ["FilterWorth"]

#: Steps that filter before anything is decided, and one in so many after that: rates change.
_FIRST, _AGAIN = 4, 8
#: Weight of the newest step in every average.
_NEWEST = 0.3


class FilterWorth:
    """Compares two ways to choose: the best estimate at once, or the best of a filtered shortlist.

    A choice that gains `g` a split needs about `deficit / g` levels, hence `2^(deficit / g)`
    subdomains; filtering pays while the levels it saves are worth more than the time it adds to
    each of them. Both are measured on the search itself.
    """

    def __init__(self) -> None:
        self._steps = 0
        self._filtered = False
        self._last = 0.0
        self._begun = 0.0
        self._bounding = 0.0
        self._choosing = 0.0
        self._levels = np.zeros(2)

    @property
    def filtering(self) -> bool:
        """True iff the next step should filter."""
        if self._steps < _FIRST or self._steps % _AGAIN == 0 or not self._bounding:
            return True
        slower = 1 + self._choosing / self._bounding
        saved = self._levels[0] - self._levels[1]
        return bool(np.log2(slower) <= saved)

    def begin(self) -> None:
        """A choice begins; since the last one subdomains were bounded."""
        self._begun = time.perf_counter()
        if self._last:
            self._bounding = _mean(self._bounding, self._begun - self._last)
        self._filtered = False

    def learn(self, gains: Float[np.ndarray, "B candidates"], parent: np.ndarray) -> None:
        """The shortlist's gains, the best estimate first, and its subdomains' own bounds."""
        self._filtered = True
        deficit = np.maximum(-parent, TINY)
        found = np.isfinite(gains[:, 0])
        if not found.any():
            return
        first, best = gains[found, 0], gains[found].max(axis=1)
        levels = [float(np.median(deficit[found] / np.maximum(g, TINY))) for g in (first, best)]
        self._levels = np.array([_mean(a, b) for a, b in zip(self._levels, levels, strict=True)])

    def end(self) -> None:
        """The choice is made."""
        self._last = time.perf_counter()
        self._steps += 1
        if self._filtered:
            self._choosing = _mean(self._choosing, self._last - self._begun)


def _mean(known: float, new: float) -> float:
    return new if not known else (1 - _NEWEST) * known + _NEWEST * new
