"""The seam between what is to be done and where: an executor, and the simplest one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from closegap.evaluate.tasks import Outcome, Task, Work, attempt

__all__ = ["Executor", "SerialExecutor"]


@runtime_checkable
class Executor(Protocol):
    """Does work for tasks, here or elsewhere, and yields outcomes in the order they end.

    One call of `map_unordered` at a time. Tasks are drawn from their iterable when there is room
    for them. Whatever goes wrong with one task is the answer of its outcome, and the others go on.
    """

    def map_unordered(self, work: Work, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield one outcome for every task."""

    def close(self) -> None:
        """End in peace: nothing is running any more."""

    def kill(self) -> None:
        """End at once, whatever is running; harmless when repeated."""


class SerialExecutor:
    """One task after another in this process.

    Nothing guards it: the engines keep their deadlines themselves, a native crash ends the process,
    and an interruption waits for the native call that is running. `ProcessExecutor` has the guards.
    """

    def map_unordered(self, work: Work, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield one outcome for every task, in order."""
        for task in tasks:
            began = time.monotonic()
            answer = attempt(work, task, lambda: None)
            yield Outcome(task, answer, time.monotonic() - began)

    def close(self) -> None:
        """Nothing to end."""

    def kill(self) -> None:
        """Nothing to end."""
