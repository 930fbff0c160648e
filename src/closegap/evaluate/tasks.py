"""What is handed to an executor, and what comes back. Everything here pickles and is small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from closegap.core.errors import InputError, MissingDependencyError
from closegap.core.verdict import Reason

if TYPE_CHECKING:  # the process that waits for an answer needs neither
    import numpy as np
    from numpy.typing import NDArray

    from closegap.store.records import Record

__all__ = ["Failure", "ImageTask", "Message", "Outcome", "PropertyTask", "Task", "Work", "attempt"]


@dataclass(frozen=True, eq=False)
class ImageTask:
    """One image of a data set.

    Attributes:
        key: of its record.
        index: position in the data set.
        label: the true class.
        timeout: seconds.
        image: float32 in [0, 1], in the network's input shape.
        name: empty; files have names, images have indices.
    """

    key: str
    index: int
    label: int
    timeout: float
    image: NDArray[np.float32]
    name: str = ""


@dataclass(frozen=True, eq=False)
class PropertyTask:
    """One network and one property file.

    Attributes:
        key: of its record.
        index: position in the list of instances.
        name: of the property file, and of the network where the list has several.
        timeout: seconds.
        model: path of the ONNX file.
        model_digest: SHA-256 of its uncompressed bytes, in hex.
        spec: path of the VNN-LIB file.
        label: `None`; a property has no true class.
    """

    key: str
    index: int
    name: str
    timeout: float
    model: str
    model_digest: str
    spec: str
    label: None = None


Task: TypeAlias = ImageTask | PropertyTask


@dataclass(frozen=True)
class Failure:
    """Why a task gave no record of its own.

    Attributes:
        reason: the reason its record will carry.
        text: one line.
        bad_input: True iff the user gave something that cannot be used.
        trace: the traceback, for those who look for the cause.
    """

    reason: Reason
    text: str
    bad_input: bool = False
    trace: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A task that ended: with its record, or with what went wrong; and how long it took."""

    task: Task
    answer: Record | Failure
    seconds: float


class Message(Enum):
    """What a worker process tells: it can work, it loaded what a task needs, it has the answer."""

    READY = "ready"
    BEGUN = "begun"
    DONE = "done"


@runtime_checkable
class Work(Protocol):
    """What is done for every task. Pickles; keeps loaded networks between tasks."""

    def prepare(self, task: Task) -> None:
        """Load what the task needs; its timeout does not run yet."""

    def __call__(self, task: Task) -> Record:
        """Answer the task within its timeout."""


def attempt(work: Work, task: Task, begun: Callable[[], None]) -> Record | Failure:
    """The record of one task, or why there is none; nothing but an interruption escapes.

    Args:
        work: what is done.
        task: to do it for.
        begun: called when loading is over and the task's own clock starts.
    """
    try:
        work.prepare(task)
        begun()
        return work(task)
    except (InputError, MissingDependencyError) as error:
        return Failure(Reason.ENGINE_FAILED, _first_line(error), bad_input=True)
    except MemoryError:
        return Failure(Reason.MEMORY, "memory ran out; fewer workers leave each of them more")
    except Exception as error:
        import traceback  # only where something broke

        text = f"{type(error).__name__}: {_first_line(error)}"
        return Failure(Reason.ENGINE_FAILED, text, trace=traceback.format_exc())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
