"""Work whose answers and accidents are known: what a task does is written in its name."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from closegap.core.errors import ModelError
from closegap.core.verdict import Verdict
from closegap.evaluate.tasks import ImageTask, Task
from closegap.store import Record


def task(index: int, name: str = "", timeout: float = 30.0) -> ImageTask:
    image = np.full((2, 3), index, dtype=np.float32)
    return ImageTask(f"key{index}", index, index % 10, timeout, image, name)


def record(task: Task, detail: str = "") -> Record:
    return Record(
        key=task.key, index=task.index, name=task.name, label=task.label, target="1",
        verdict=Verdict.VERIFIED, reason=None, detail=detail, lower=float(task.index) + 1,
        upper=2.0 + task.index, engine="crown", seconds=0.5,
    )  # fmt: skip


@dataclass
class ScriptedWork:
    """`crash`, `killed`, `exit`, `raise`, `memory`, `bad`, `stuck`, `spawn FILE`, `sleep S` or
    nothing, as the task's name says. Every call is put down in `journal`, when there is one."""

    journal: str = ""
    prepared: list[int] = field(default_factory=list)

    def prepare(self, task: Task) -> None:
        self.prepared.append(task.index)
        if task.name == "slow loading":
            time.sleep(1.5)

    def __call__(self, task: Task) -> Record:
        if self.journal:
            with Path(self.journal).open("a") as stream:
                stream.write(f"{task.index}\n")
        word, _, rest = task.name.partition(" ")
        if word in _ACTS:
            _ACTS[word](rest)
        detail = f"{os.getpid()} {len(self.prepared)} {os.environ.get('OMP_NUM_THREADS')}"
        return record(task, detail)


class BrokenWork:
    """Work that cannot even be read by a worker."""

    def prepare(self, task: Task) -> None: ...

    def __call__(self, task: Task) -> Record:
        return record(task)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (int, ("not a number",))


def _spawn(file: str) -> None:
    """Start a grandchild, tell its number, then hold the interpreter lock in native code."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(file).write_text(f"{os.getpid()} {child.pid}")
    ctypes.PyDLL(None).sleep(60)


def _raise(text: str) -> None:
    raise RuntimeError(f"an engine {text}\nwith a second line")


def _bad(text: str) -> None:
    raise ModelError(f"model.onnx: {text}")


def _memory(text: str) -> None:
    raise MemoryError


_ACTS = {
    "crash": lambda rest: os.kill(os.getpid(), signal.SIGSEGV),
    "killed": lambda rest: os.kill(os.getpid(), signal.SIGKILL),
    "exit": lambda rest: os._exit(3),
    "raise": _raise,
    "memory": _memory,
    "bad": _bad,
    "stuck": lambda rest: ctypes.PyDLL(None).sleep(60),
    "spawn": _spawn,
    "sleep": lambda rest: time.sleep(float(rest)),
    "print": lambda rest: os.write(1, b"native noise\n"),
}


def renamed(record: Record, **changes: object) -> Record:
    return replace(record, **changes)  # type: ignore[arg-type]  # a test's own keywords
