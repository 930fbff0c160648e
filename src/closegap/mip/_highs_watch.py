"""What HiGHS's callbacks do while it runs."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from closegap.mip.model import POLL_SECONDS, SolveOptions, Status

__all__ = ["HighsWatch"]


class HighsWatch:
    """Stream incumbents, and stop the solver for one of four reasons.

    No exception crosses native code: it is kept, the solver is stopped, and `solve` raises it.
    """

    def __init__(self, options: SolveOptions, deadline: float) -> None:
        self.deadline = deadline
        self.reason: Status | None = None
        self._options = options
        self._caught: BaseException | None = None
        self._next_poll = 0.0
        self._bound = -math.inf
        self._next_bound = 0.0

    def improved(self, event: Any) -> None:
        """A better feasible point was found."""
        objective = float(event.data_out.objective_function_value)
        target = self._options.stop_at_incumbent
        if target is not None and objective <= target:
            self.reason = Status.INCUMBENT_REACHED
        if self._options.on_incumbent is None or self._caught is not None:
            return
        try:
            self._options.on_incumbent(np.array(event.data_out.mip_solution), objective)
        except BaseException as error:
            self._caught = error

    def bounded(self, event: Any) -> None:
        """The search is between two nodes."""
        bound = float(event.data_out.mip_dual_bound)
        target = self._options.stop_at_bound
        if target is not None and bound >= target:
            self.reason = self.reason or Status.BOUND_REACHED
        now = time.monotonic()
        if bound > self._bound and now >= self._next_bound:
            self._bound, self._next_bound = bound, now + POLL_SECONDS
            self._tell_bound(bound)
        self.poll(event)

    def _tell_bound(self, bound: float) -> None:
        if self._options.on_bound is None or self._caught is not None:
            return
        try:
            self._options.on_bound(bound)
        except BaseException as error:
            self._caught = error

    def poll(self, event: Any) -> None:
        """Stop the solver if there is a reason."""
        if self.reason is None and self._caught is None:
            self._ask()
        if self.reason is not None or self._caught is not None:
            event.interrupt()

    def _ask(self) -> None:
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + POLL_SECONDS
        if now > self.deadline:
            self.reason = Status.TIME
        try:
            if self._options.interrupted is not None and self._options.interrupted():
                self.reason = Status.INTERRUPTED
        except BaseException as error:
            self._caught = error

    def raise_what_was_caught(self) -> None:
        """Raise what a callback of the caller raised, if any did."""
        if self._caught is not None:
            raise self._caught
