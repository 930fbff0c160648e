"""One thread beside the caller's, which does jobs in the order they were given."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

__all__ = ["Ended", "Job", "Worker"]

#: Asked between the steps of a job: True where whoever wanted it wants it no more.
Ended: TypeAlias = Callable[[], bool]

Result = TypeVar("Result")

#: A condition cannot wait for ever, and what waits must hear of an interrupt.
_LONGEST_WAIT = 60.0


class Job(Generic[Result]):
    """Something to do once, on whichever thread comes to it first.

    Args:
        work: what is done; whatever it reads must not change meanwhile.

    Attributes:
        result: what it gave; `None` before it is done, and where it failed.
        error: what it raised, if it did.
        seconds: processor time that it took on its thread.
    """

    def __init__(self, work: Callable[[Ended], Result]) -> None:
        self._work = work
        self.result: Result | None = None
        self.error: Exception | None = None
        self.seconds = 0.0

    def do(self, ended: Ended) -> None:
        """Do it here and now; what it raises is kept."""
        began = time.thread_time()
        try:
            self.result = self._work(ended)
        except Exception as error:  # belongs to whoever takes the result
            self.error = error
        finally:
            self.seconds = time.thread_time() - began


class Worker(Generic[Result]):
    """A thread that does jobs; results are taken by the thread that gave them.

    It is a daemon: native code that never comes back cannot keep the process alive.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Job[Result]] = deque()
        self._done: list[Job[Result]] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def give(self, job: Job[Result]) -> None:
        """Let it do this after what it was given before."""
        with self._changed:
            self._waiting.append(job)
            self._changed.notify_all()

    def take_back(self) -> Job[Result] | None:
        """The newest job that it has not begun, which it forgets; `None` if it began them all."""
        with self._changed:
            return self._waiting.pop() if self._waiting else None

    def done(self) -> list[Job[Result]]:
        """Jobs that ended since the last call; never waits."""
        with self._changed:
            found, self._done = self._done, []
        return found

    def wait(self, seconds: float) -> None:
        """Wait until a job has ended, but no longer than so many seconds, nor than a minute."""
        with self._changed:
            self._changed.wait_for(
                lambda: bool(self._done) or not self.alive, min(seconds, _LONGEST_WAIT)
            )

    def stop(self, seconds: float) -> bool:
        """Begin nothing more, and wait for the job at hand; it is told to end.

        Args:
            seconds: to wait at most.

        Returns:
            True iff the thread has ended.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(min(seconds, threading.TIMEOUT_MAX))
        return not self.alive

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.do(self._ended)
            finally:
                with self._changed:
                    self._done.append(job)
                    self._changed.notify_all()

    def _next(self) -> Job[Result] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or bool(self._waiting))
            return None if self._stopped else self._waiting.popleft()

    def _ended(self) -> bool:
        return self._stopped
