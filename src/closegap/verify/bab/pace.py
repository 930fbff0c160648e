"""How many domains to take at a time, so that one step stays short and the deadline is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

__all__ = ["Pace", "tree_pace"]

#: Seconds one step should take at most.
_STEP_SECONDS = 0.5
#: A step near the end may use this share of the time that is left.
_SHARE = 0.25


class Pace:
    """Learns the seconds a domain takes, and turns them into a batch size.

    A step's length is measured by the clock that is given: work of one thread is counted by
    `time.thread_time`, for on a busy machine elapsed time would shrink batches to one, and small
    batches take more processor time a domain. The deadline always counts elapsed time.

    Args:
        most: the greatest batch.
        each: seconds a domain takes, by that clock, if known.
        clock: seconds; elapsed ones where threads or devices share the work.
        step: seconds one step may take; the clock is looked at between steps.

    Attributes:
        each: seconds a domain takes by the clock; 0 before the first step.
    """

    def __init__(
        self,
        most: int,
        *,
        each: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        step: float = _STEP_SECONDS,
    ) -> None:
        self._most = most
        self._clock = clock
        self._step = step
        self.each = each
        self._elapsed = each
        self._started = 0.0, 0.0

    def begin(self) -> None:
        """A step begins."""
        self._started = self._clock(), time.monotonic()

    def end(self, domains: int) -> None:
        """The step has bounded so many domains; slow steps count at once, fast ones slowly."""
        clock, elapsed = self._started
        self.each = _slower(self.each, (self._clock() - clock) / max(1, domains))
        self._elapsed = _slower(self._elapsed, (time.monotonic() - elapsed) / max(1, domains))

    def batch(self, remaining: float) -> int:
        """Domains to split next, when `remaining` seconds are left; each makes two."""
        count = float(self._most)
        if self.each > 0:
            count = min(count, self._step / (2 * self.each))
        if self._elapsed > 0:
            count = min(count, _SHARE * remaining / (2 * self._elapsed))
        return max(1, int(count))


def tree_pace(most: int, *, each: float = 0.0) -> Pace:
    """Of domains that climb together: every iteration of a step reads all matrices once.

    With two domains a step each costs ten times as much as in a hundred, so only the deadline makes
    steps small. Climbs end there, whatever is left of the step.
    """
    return Pace(most, each=each, clock=time.thread_time, step=math.inf)


def _slower(known: float, each: float) -> float:
    return each if each > known else 0.5 * (known + each)
