"""Nodes that wait for programs on a thread of their own, while bounding goes on.

The tree is never touched there: a task has copies of what it needs, and what it finds is taken by
the loop between two batches. HiGHS and torch let Python go on while they compute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.cores import available_cores
from closegap.core.errors import SolverError
from closegap.core.worker import Ended, Job, Worker

__all__ = ["Found", "LeafOptions", "Task", "WaitingRoom", "Where", "alone", "never"]

#: Where programs run.
Where: TypeAlias = Literal["auto", "inline", "thread"]

#: Seconds for the program at hand to end once a run is over. Its own limit is the run's.
_GRACE = 1.0


@dataclass(frozen=True)
class LeafOptions:
    """Where the programs of leaves and of small subdomains run.

    Attributes:
        worker: `thread`: on one thread of their own while bounding goes on; `inline`: between two
            batches; `auto`: on a thread where the budget has threads and the process has cores for
            two. Under a node limit always inline, for the tree must not depend on the clock.
    """

    worker: Where = "auto"

    def threaded(self, budget: Budget) -> bool:
        """True iff a run with this budget has a thread for programs."""
        if budget.nodes is not None or self.worker == "inline":
            return False
        return self.worker == "thread" or (budget.threads > 1 and available_cores() > 1)


@dataclass(frozen=True, eq=False)
class Found:
    """What programs showed of B nodes.

    Attributes:
        lower: proved bounds.
        closed: proved.
        stuck: nothing is left to try.
        points: candidates, `[M, *input shape]`.
    """

    lower: Float[np.ndarray, "B"]
    closed: Bool[np.ndarray, "B"]
    stuck: Bool[np.ndarray, "B"]
    points: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Task:
    """Programs about some open nodes.

    Attributes:
        nodes: they wait until it is done.
        small: they may be split instead.
        job: gives what was found.
    """

    nodes: Int[np.ndarray, "B"]
    small: bool
    job: Job[Found]

    @property
    def found(self) -> Found:
        """What was found.

        Raises:
            Exception: what it raised.
            SolverError: its thread was ended.
        """
        if self.job.error is not None:
            raise self.job.error
        if self.job.result is None:
            raise SolverError("the programs of a leaf ended without an answer")
        return self.job.result


class WaitingRoom:
    """The tasks of one run, and the thread that does them.

    Attributes:
        overran: a program of an earlier run has not come back: what it uses must not be touched.
    """

    def __init__(self) -> None:
        self._worker: Worker[Found] | None = None
        self._lost: Worker[Found] | None = None
        self._tasks: list[Task] = []
        self._done: list[Task] = []
        self._seconds = 0.0

    @property
    def open(self) -> bool:
        """True while there is a thread to give tasks to."""
        return self._worker is not None

    @property
    def overran(self) -> bool:
        """See the class."""
        return self._lost is not None and self._lost.alive

    @property
    def nodes(self) -> Int[np.ndarray, "W"]:
        """Nodes that wait; they must not be split."""
        none = np.zeros(0, np.int64)
        return np.concatenate([none, *(task.nodes for task in self._tasks)])

    def count(self, *, small: bool) -> int:
        """Nodes that wait, of one kind."""
        return sum(len(task.nodes) for task in self._tasks if task.small is small)

    @contextmanager
    def run(self, *, threaded: bool) -> Iterator[None]:
        """One run: what waits at its end is forgotten, what is done may still be taken.

        The thread ends with the run. One whose program overruns its limit is left behind, and no
        other is begun before it has come back.
        """
        self._lost = self._lost if self.overran else None
        self._tasks, self._done = [], []
        if threaded and self._lost is None:
            self._worker = Worker("closegap-leaves")
        try:
            yield
        finally:
            self._close()

    def give(
        self, nodes: Int[np.ndarray, "B"], small: bool, work: Callable[[Ended], Found]
    ) -> None:
        """Let nodes wait for the thread.

        Raises:
            SolverError: there is no thread.
        """
        if self._worker is None:
            raise SolverError("nodes can wait only while a run has a thread for programs")
        task = Task(nodes, small, Job(partial(_on_one_thread, work)))
        self._tasks.append(task)
        self._worker.give(task.job)

    def help(self) -> bool:
        """Nothing else is left to do: take the newest task back and do it here.

        Subdomains that may be split wait no longer instead. False iff every task was begun.
        """
        job = None if self._worker is None else self._worker.take_back()
        if job is None:
            return False
        task = next(t for t in self._tasks if t.job is job)
        self._tasks.remove(task)
        if not task.small:
            threads = torch.get_num_threads()
            try:
                job.do(never)
            finally:
                torch.set_num_threads(threads)
            self._done.append(task)
        return True

    def wait(self, seconds: float) -> None:
        """Wait for a task to end, so many seconds at most."""
        if self._worker is not None and self._tasks:
            self._worker.wait(seconds)

    def spent(self) -> float:
        """Processor seconds of the thread since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def take(self) -> list[Task]:
        """Tasks that ended since the last call."""
        if self._worker is not None:
            self._gather(self._worker)
        done, self._done = self._done, []
        return done

    def _gather(self, worker: Worker[Found]) -> None:
        ended = set(worker.done())
        self._seconds += sum(job.seconds for job in ended)
        self._done += [task for task in self._tasks if task.job in ended]
        self._tasks = [task for task in self._tasks if task.job not in ended]

    def _close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if not worker.stop(_GRACE):
            self._lost = worker
        self._gather(worker)
        self._tasks = []
        torch.set_num_threads(torch.get_num_threads())  # threads to come begin as this one is


def _on_one_thread(work: Callable[[Ended], Found], ended: Ended) -> Found:
    """Torch's threads are those of the thread that calls it: the others are for bounding."""
    torch.set_num_threads(1)
    return work(ended)


def never() -> bool:
    """Work on this thread is ended by its budget alone."""
    return False


def alone(budget: Budget) -> Budget:
    """The same limits for one thread."""
    return replace(budget, threads=1)
