"""Worker processes under our own control: a deadline that is kept, a crash that is survived."""

from __future__ import annotations

import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from closegap.core.cores import available_cores
from closegap.core.errors import ClosegapError, OptionError
from closegap.core.verdict import Reason
from closegap.evaluate.tasks import Failure, Message, Outcome, Task, Work

if TYPE_CHECKING:
    from closegap.store.records import Record

__all__ = ["ProcessExecutor", "available_cores"]

#: How far a task may overrun its own timeout before its worker is killed, in seconds.
_GRACE_SECONDS = 10.0
#: How long a worker may take to start and to load a network, in seconds.
_LOADING_SECONDS = 900.0
#: A worker whose channel stays open though it died is noticed after this many seconds.
_POLL_SECONDS = 0.5
#: How long an idle worker may take to leave when asked to.
_LEAVING_SECONDS = 5.0

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
)  # fmt: skip


class ProcessExecutor:
    """Tasks on `workers` processes, each with at most `cores // workers` native threads.

    A worker loads a network once and keeps it. A worker that dies, or that overruns a task's
    timeout by more than the grace, is replaced; its task ends with a failure and the others go on.
    Workers die with this process, even when it is killed.

    Args:
        workers: number of processes, at least 1.
        grace: seconds by which a task may overrun its own timeout.
        loading: seconds a worker may take to start and to load a network.
    """

    def __init__(
        self,
        workers: int,
        *,
        grace: float = _GRACE_SECONDS,
        loading: float = _LOADING_SECONDS,
    ) -> None:
        if workers < 1:
            raise OptionError(f"workers must be at least 1, got {workers}")
        self.workers = workers
        self.threads = _threads(workers)
        self._grace = grace
        self._loading = loading
        self._team: list[_Worker] = []

    def map_unordered(self, work: Work, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Yield one outcome for every task, in the order they end.

        Raises:
            ClosegapError: a worker cannot start at all.
        """
        blob = pickle.dumps(work)
        waiting = iter(tasks)
        try:
            while self._hand_out(blob, waiting):
                yield from self._news()
        finally:
            for worker in [w for w in self._team if w.task is not None]:
                worker.kill()
                self._team.remove(worker)

    def close(self) -> None:
        """Let the idle workers leave; kill those that are still working."""
        for worker in self._team:
            worker.leave()
        self._team.clear()

    def kill(self) -> None:
        """Kill every worker and whatever it started."""
        for worker in self._team:
            worker.kill()
        self._team.clear()

    def _hand_out(self, blob: bytes, waiting: Iterator[Task]) -> bool:
        """Give every free place a task while there are some; False when nothing is running."""
        for gone in [w for w in self._team if w.task is None and w.exited]:
            gone.kill()
            self._team.remove(gone)
        idle = [worker for worker in self._team if worker.task is None]
        for _ in range(self.workers - len(self._team) + len(idle)):
            task = next(waiting, None)
            if task is None:
                break
            if idle:
                worker = idle.pop()
            else:
                worker = _Worker(blob, self.threads, self._grace, self._loading)
                self._team.append(worker)
            worker.assign(task)
        return any(worker.task is not None for worker in self._team)

    def _news(self) -> Iterator[Outcome]:
        """What the workers tell, until the first wait is over; the dead leave the team."""
        for worker in self._ready():
            outcome = worker.news()
            if worker.dead:
                self._team.remove(worker)
            if outcome is not None:
                yield outcome

    def _ready(self) -> list[_Worker]:
        """Wait for news; the workers that have some, or whose time is up, or that died."""
        busy = [worker for worker in self._team if worker.task is not None]
        until = min(worker.deadline for worker in busy) - time.monotonic()
        heard = wait([w.connection for w in busy], timeout=min(max(until, 0.0), _POLL_SECONDS))
        return [w for w in busy if w.connection in heard or w.expired or w.exited]


class _Worker:
    """One process and what it is doing."""

    def __init__(self, blob: bytes, threads: int, grace: float, loading: float) -> None:
        self._grace = grace
        self._loading = loading
        self._ready = False
        self.dead = False
        self.task: Task | None = None
        self.deadline = math.inf
        self._began = time.monotonic()
        ours, theirs = socket.socketpair()
        watched, self._lifeline = os.pipe()
        passed = (theirs.fileno(), watched)
        try:
            self._process = subprocess.Popen(
                # -P: no module in the working directory may stand in for one of ours.
                [sys.executable, "-P", "-m", "closegap.evaluate.worker", *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # native libraries print; stdout belongs to the rows
                env=_environment(threads),
                pass_fds=passed,
                start_new_session=True,  # its own group: a terminal's Ctrl-C is ours to pass on
            )
        finally:
            theirs.close()
            os.close(watched)
        self.connection = Connection(ours.detach())
        self._send(blob)

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def exited(self) -> bool:
        return self._process.poll() is not None

    def assign(self, task: Task) -> None:
        self.task = task
        self._began = time.monotonic()
        self.deadline = self._began + self._loading
        self._send(task)

    def news(self) -> Outcome | None:
        """Take one message, a death or an overrun; an outcome when the task ended with it."""
        try:
            if self.connection.poll():
                return self._heard(*self.connection.recv())
        except (EOFError, OSError):
            return self._died()
        if self.exited:
            return self._died()
        return self._overran() if self.expired else None

    def kill(self) -> None:
        """Kill the process and its group, and wait for it."""
        self.dead = True
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._process.kill()
        self._process.wait()
        self._release()

    def leave(self) -> None:
        """Let an idle process end by itself."""
        if self.task is not None:
            self.kill()
            return
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):  # something native may hold it back
            self._process.wait(_LEAVING_SECONDS)
        self.kill()

    def _send(self, message: object) -> None:
        """A dead process cannot read; that it died is noticed when its news are asked for."""
        with suppress(OSError):
            if isinstance(message, bytes):
                self.connection.send_bytes(message)
            else:
                self.connection.send(message)

    def _heard(self, word: Message, answer: Any) -> Outcome | None:
        now = time.monotonic()
        if word is Message.READY:
            self._ready = True
        elif word is Message.BEGUN and self.task is not None:
            self._began = now
            self.deadline = now + self.task.timeout + self._grace
        elif word is Message.DONE:
            return self._ended(answer)
        return None

    def _died(self) -> Outcome | None:
        self.kill()
        code = self._process.returncode
        if not self._ready:
            raise ClosegapError(f"a worker process could not start (exit status {code})")
        return self._ended(_death(code))

    def _overran(self) -> Outcome | None:
        over = time.monotonic() - self._began
        self.kill()
        text = f"stopped after {over:.1f} s: it did not keep its timeout"
        return self._ended(Failure(Reason.TIME, text))

    def _ended(self, answer: Record | Failure) -> Outcome | None:
        task, self.task, self.deadline = self.task, None, math.inf
        if task is None:
            return None
        return Outcome(task, answer, time.monotonic() - self._began)

    def _release(self) -> None:
        self.connection.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _threads(workers: int) -> int:
    """An equal share of the cores, but no more than the user allows by `OMP_NUM_THREADS`."""
    share = max(1, available_cores() // workers)
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, max(1, int(asked))) if asked.isdecimal() else share


def _environment(threads: int) -> dict[str, str]:
    """This process's, with its module path, and the thread limit before anything native loads."""
    limits = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    paths = os.pathsep.join(str(Path(path).absolute()) for path in sys.path)
    return {**os.environ, **limits, "PYTHONPATH": paths}


def _death(code: int) -> Failure:
    if code == -signal.SIGKILL:
        text = "its worker process was killed, most likely because memory ran out"
        return Failure(Reason.MEMORY, f"{text}; fewer workers leave each of them more")
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return Failure(Reason.ENGINE_FAILED, f"its worker process crashed ({how})")
