"""What a caller wants to hear of a solve while it runs, and when the solve has to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from closegap.mip.model import POLL_SECONDS, Array, SolveOptions, Status

__all__ = ["Watch"]


class Watch:
    """Streams incumbents and bounds of one solve, and says when the solver has to stop.

    A solver's callbacks call `offer`, `bounded` and `stops`. None of them raises, for no exception
    may cross native code: what the caller's functions raise is kept, the solver has to stop, and
    `raise_what_was_caught` raises it afterwards.

    Attributes:
        deadline: on the monotonic clock, in seconds.
        reason: why the solver has to stop; None until it has to.
        best: the objective of the best point so far.
        point: that point.
        bound: the best bound so far.
    """

    def __init__(self, options: SolveOptions, deadline: float) -> None:
        self.deadline = deadline
        self.reason: Status | None = None
        self.best = math.inf
        self.point: Array | None = None
        self.bound = -math.inf
        self._options = options
        self._caught: BaseException | None = None
        self._next_poll = 0.0
        self._told = -math.inf
        self._next_telling = 0.0

    def offer(self, point: Array, objective: float) -> None:
        """A feasible point: kept and passed on if it is better than the ones before."""
        if self._caught is not None or not self.keep(point, objective):
            return
        self._tell(self._options.on_incumbent, point, objective)
        target = self._options.stop_at_incumbent
        if target is not None and objective <= target:
            self.reason = self.reason or Status.INCUMBENT_REACHED

    def keep(self, point: Array, objective: float) -> bool:
        """Keep a feasible point, without a word, if it is better; returns whether it is."""
        better = objective < self.best
        if better:
            self.best, self.point = objective, point
        return better

    def bounded(self, bound: float) -> None:
        """A proved bound: passed on if it is better, but not oftener than polls are made."""
        self.bound = max(self.bound, bound)
        target = self._options.stop_at_bound
        if target is not None and bound >= target:
            self.reason = self.reason or Status.BOUND_REACHED
        now = time.monotonic()
        if bound > self._told and now >= self._next_telling:
            self._told, self._next_telling = bound, now + POLL_SECONDS
            self._tell(self._options.on_bound, bound)

    def stops(self) -> bool:
        """Whether the solver has to stop; now and then the clock and the caller are asked."""
        if self.reason is None:
            self._ask()
        return self.reason is not None

    def caught(self, error: BaseException) -> None:
        """Keep what was raised within a callback, and have the solver stop."""
        self._caught = self._caught or error
        self.reason = self.reason or Status.INTERRUPTED

    def raise_what_was_caught(self) -> None:
        """Raise what a function of the caller raised, if any did."""
        if self._caught is not None:
            raise self._caught

    def _ask(self) -> None:
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + POLL_SECONDS
        if now > self.deadline:
            self.reason = Status.TIME
        if self._tell(self._options.interrupted):
            self.reason = Status.INTERRUPTED

    def _tell(self, listener: Callable[..., Any] | None, *values: Any) -> Any:
        if listener is None or self._caught is not None:
            return None
        try:
            return listener(*values)
        except BaseException as error:
            self.caught(error)
            return None
