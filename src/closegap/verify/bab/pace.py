"""How many domains to take at a time, so that one step stays short and the deadline is kept."""

from __future__ import annotations

import time

__all__ = ["Pace"]

#: Seconds one step should take at most; the clock is looked at between steps.
_STEP_SECONDS = 0.5
#: A step near the end may use this share of the time that is left.
_SHARE = 0.25


class Pace:
    """Learns the seconds a domain takes, and turns them into a batch size.

    Args:
        most: the greatest batch.

    Attributes:
        each: seconds a domain takes; 0 before the first step.
    """

    def __init__(self, most: int, *, each: float = 0.0) -> None:
        self._most = most
        self.each = each
        self._started = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._started = time.monotonic()

    def end(self, domains: int) -> None:
        """The step has bounded so many domains; slow steps count at once, fast ones slowly."""
        each = (time.monotonic() - self._started) / max(1, domains)
        self.each = each if each > self.each else 0.5 * (self.each + each)

    def batch(self, remaining: float) -> int:
        """Domains to split next, when `remaining` seconds are left; each makes two."""
        if self.each == 0.0:
            return self._most
        seconds = min(_STEP_SECONDS, _SHARE * remaining)
        return max(1, min(self._most, int(seconds / (2 * self.each))))
