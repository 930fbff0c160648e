"""Answers kept as lines of JSON: what is in the file is not asked again, workers share the rest."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import torch

#: What makes two questions the same.
Key: TypeAlias = tuple[object, ...]


class Keyed(Protocol):
    """A question, or its answer: a frozen dataclass of words and numbers."""

    @property
    def key(self) -> Key:
        """The same for a question and its answer."""
        ...


T = TypeVar("T", bound=Keyed)
A = TypeVar("A", bound=Keyed)


def known(path: Path, kind: type[A]) -> dict[Key, A]:
    """What former runs wrote; a line that was cut short, or is of another kind, is asked again."""
    found: dict[Key, A] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            answer = kind(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue
        found[answer.key] = answer
    return found


def write(path: Path, answers: Sequence[Any]) -> None:
    """Append answers, a line each, behind a line that may have been cut short."""
    cut = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a") as file:
        file.write("\n" * cut)
        file.writelines(json.dumps(asdict(answer)) + "\n" for answer in answers)


def answered(
    tasks: Sequence[T],
    work: Callable[[T], A],
    kind: type[A],
    path: Path,
    *,
    workers: int = 1,
    say: Callable[[A], None] = lambda _: None,
) -> list[A]:
    """Answer tasks, each answer written as soon as it is there.

    Args:
        tasks: what is asked.
        work: answers one; a function of a module, so that workers can import it.
        kind: of the answers.
        path: of the file.
        workers: processes; one works in this process.
        say: told of every new answer.

    Returns:
        the answers in the tasks' order.
    """
    found = known(path, kind)
    left = [task for task in dict.fromkeys(tasks) if task.key not in found]
    for answer in _worked(left, work, workers):
        write(path, [answer])
        found[answer.key] = answer
        say(answer)
    return [found[task.key] for task in tasks]


def _worked(tasks: Sequence[T], work: Callable[[T], A], workers: int) -> Iterator[A]:
    """Answers in the order in which they come."""
    if workers == 1 or len(tasks) < 2:
        yield from map(work, tasks)
        return
    start = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, start, _begin)
    try:
        for done in as_completed([pool.submit(work, task) for task in tasks]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """One thread a worker, and none without the process that it works for."""
    torch.set_num_threads(1)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Clock:
    """Seconds since it was made, and processor seconds of this process and its solvers."""

    def __init__(self) -> None:
        self._begun = time.perf_counter(), processor_seconds()

    def read(self) -> tuple[float, float]:
        """Both."""
        wall, processor = self._begun
        return time.perf_counter() - wall, processor_seconds() - processor


def processor_seconds() -> float:
    """Of this process and of the solvers' processes, as far as they have ended or are known."""
    children = [
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime + sum(map(_of_process, children))


def _of_process(number: int) -> float:
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100.0
