"""Any backend, in a process that is killed when it overruns.

Native solvers do not always keep their limits, and some crash. Here a solve ends in time whatever
the solver does, and what it had found until then is kept.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from closegap.core.errors import OptionError
from closegap.mip.model import (
    POLL_SECONDS,
    Array,
    Capabilities,
    Claim,
    LinearSession,
    MipBackend,
    Model,
    SolveOptions,
    Status,
)

__all__ = ["KillableBackend"]

#: How long a solver may take to notice its time limit, or a request to stop, before it is killed.
_GRACE_SECONDS = 0.3


class KillableBackend:
    """Runs `inner` in worker processes that are kept for the next solve.

    Safe to use from several threads at once: each solve has a worker to itself. After a fork the
    child starts workers of its own. The workers end with this object, with `close`, or with this
    process, even if it is killed.

    Args:
        inner: a backend whose class can be imported and made without arguments.
        name: how reports call it; the inner one's name if empty.
    """

    def __init__(self, inner: MipBackend, name: str = "") -> None:
        self.name = name or inner.name
        self.capabilities: Capabilities = replace(
            inner.capabilities, killable=True, warm_start=False
        )
        self._inner = inner
        self._path = f"{type(inner).__module__}:{type(inner).__qualname__}"
        self._lock = threading.Lock()
        self._crew = _Crew()
        self._end = weakref.finalize(self, _Crew.dismiss, self._crew)

    def __reduce__(self) -> tuple[Any, ...]:
        return KillableBackend, (self._inner, self.name)

    def installed(self) -> bool:
        """True iff the solver can be imported and the system has what workers need (POSIX)."""
        return os.name == "posix" and self._inner.installed()

    def session(self, model: Model) -> LinearSession:
        """Sessions live in the caller's process only.

        Raises:
            OptionError: always.
        """
        raise OptionError(f"{self.name} runs in another process; use highs for repeated solves")

    def close(self) -> None:
        """End the workers that wait for work. The next solve starts a new one."""
        with self._lock:
            self._crew.dismiss()

    def warm_up(self) -> None:
        """Start a worker now, so that the first solve does not wait for it (about 0.4 s)."""
        with self._lock:
            if not self._crew.idle:
                self._crew.idle.append(_Worker())

    def solve(self, model: Model, options: SolveOptions) -> Claim:
        """Solve once; returns within half a second of the time limit or of an interruption.

        Never raises for infeasible, unbounded or time, nor for a worker that died: that is
        `FAILED`, with the last point and bound it sent.
        """
        begun = time.monotonic()
        if options.time_limit <= 0.0:
            return Claim(Status.TIME, detail="no time was left")
        with self._lock:
            worker = self._crew.take()
        try:
            claim = _Watched(worker, options, begun + options.time_limit).solve(self._path, model)
        except BaseException:
            worker.kill()
            raise
        with self._lock:
            self._crew.give_back(worker)
        return replace(claim, seconds=time.monotonic() - begun)


class _Crew:
    """The idle workers of one backend in one process."""

    def __init__(self) -> None:
        self.idle: list[_Worker] = []
        self._process = os.getpid()

    def take(self) -> _Worker:
        self._forget_after_fork()
        while self.idle:
            worker = self.idle.pop()
            if worker.alive:
                return worker
            worker.kill()
        return _Worker()

    def give_back(self, worker: _Worker) -> None:
        if worker.alive:
            self.idle.append(worker)

    def dismiss(self) -> None:
        self._forget_after_fork()
        while self.idle:
            self.idle.pop().kill()

    def _forget_after_fork(self) -> None:
        if os.getpid() != self._process:
            # They are the parent's: its pipes must not be written to, its children not waited for.
            self._process = os.getpid()
            for worker in self.idle:
                worker.disown()
            self.idle.clear()


class _Worker:
    """One worker process and the two pipes to it."""

    def __init__(self) -> None:
        # -P: no module in the working directory may stand in for one of ours. A session of its
        # own: Ctrl-C reaches the caller alone, who stops the worker. The kernel's parent-death
        # signal is not used, because it fires when the *thread* that started the worker ends.
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "closegap.mip._worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | single | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._outbox = Connection(os.dup(self._process.stdin.fileno()), readable=False)
        self._inbox = Connection(os.dup(self._process.stdout.fileno()), writable=False)
        self._process.stdin.close()
        self._process.stdout.close()
        self.ready = False

    @property
    def number(self) -> int:
        """The process's number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, message: tuple[Any, ...]) -> None:
        self._outbox.send(message)

    def receive(self, seconds: float) -> tuple[Any, ...] | None:
        """The next message, or `None` if none came in time.

        Raises:
            EOFError, OSError: the worker is gone.
        """
        if not self._inbox.poll(seconds):
            return None
        message: tuple[Any, ...] = self._inbox.recv()
        return message

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._close()

    def disown(self) -> None:
        self._process.returncode = 0  # not ours to wait for
        self._close()

    def _close(self) -> None:
        self._outbox.close()
        self._inbox.close()

    def epitaph(self) -> str:
        """How it ended, in words."""
        code = self._process.wait()
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


class _Watched:
    """One solve in a worker: what it has sent so far, and when its time is up."""

    def __init__(self, worker: _Worker, options: SolveOptions, deadline: float) -> None:
        self._worker = worker
        self._options = options
        self._deadline = deadline
        self._kill_at = deadline + _GRACE_SECONDS
        self._interrupted = False
        self._point: Array | None = None
        self._objective = math.inf
        self._bound = -math.inf

    def solve(self, path: str, model: Model) -> Claim:
        try:
            if not self._begin(path, model):
                return self._unfinished("no time was left once the worker had started")
            return self._follow()
        except (EOFError, OSError):
            detail = f"the solver's process {self._worker.epitaph()}"
            self._worker.kill()
            return replace(self._unfinished(detail), status=Status.FAILED)

    def _begin(self, path: str, model: Model) -> bool:
        """Wait until the worker listens, and give it the work."""
        while not self._worker.ready:
            left = self._deadline - time.monotonic()
            if left <= 0.0 or self._asked_to_stop():
                return False
            message = self._worker.receive(min(left, POLL_SECONDS))
            self._worker.ready = message is not None
        left = self._deadline - time.monotonic()
        theirs = replace(
            self._options, time_limit=left, on_incumbent=None, on_bound=None, interrupted=None
        )
        self._worker.send(("solve", path, model, theirs))
        return True

    def _follow(self) -> Claim:
        while True:
            left = self._kill_at - time.monotonic()
            if left <= 0.0:
                self._worker.kill()
                return self._unfinished(f"killed {_GRACE_SECONDS} s after it should have stopped")
            message = self._worker.receive(min(left, POLL_SECONDS))
            claim = None if message is None else self._heard(*message)
            if claim is not None:
                return claim
            if not self._interrupted and self._asked_to_stop():
                self._kill_at = min(self._kill_at, time.monotonic() + _GRACE_SECONDS)
                self._worker.send(("stop",))

    def _asked_to_stop(self) -> bool:
        asked = self._options.interrupted
        self._interrupted = asked is not None and asked()
        return self._interrupted

    def _heard(self, kind: str, *content: Any) -> Claim | None:
        return _REACTIONS[kind](self, *content)

    def _on_point(self, point: Array, objective: float) -> None:
        self._point, self._objective = point, objective
        if self._options.on_incumbent is not None:
            self._options.on_incumbent(point, objective)

    def _on_bound(self, bound: float) -> None:
        self._bound = max(self._bound, bound)
        if self._options.on_bound is not None:
            self._options.on_bound(bound)

    def _on_done(self, claim: Claim) -> Claim:
        return claim

    def _on_error(self, text: str) -> Claim:
        return replace(self._unfinished(text), status=Status.FAILED)

    def _unfinished(self, detail: str) -> Claim:
        return Claim(
            Status.INTERRUPTED if self._interrupted else Status.TIME,
            objective=self._objective,
            bound=self._bound,
            point=self._point,
            detail=detail,
        )


_REACTIONS: dict[str, Callable[..., Claim | None]] = {
    "point": _Watched._on_point,
    "bound": _Watched._on_bound,
    "done": _Watched._on_done,
    "error": _Watched._on_error,
}
