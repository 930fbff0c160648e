"""One property in one guarded process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from closegap.core.errors import InputError, ModelError
from closegap.core.files import read_file
from closegap.evaluate.processes import ProcessExecutor
from closegap.evaluate.properties import InstanceList, property_tasks
from closegap.evaluate.tasks import Failure
from closegap.evaluate.work import PropertyWork, WorkOptions
from closegap.specs.vnnlib.instances import Instance

if TYPE_CHECKING:
    from closegap.store.records import Record

__all__ = ["verify_file"]


def verify_file(
    model: Path, spec: Path, *, timeout: float, options: WorkOptions | None = None
) -> Record:
    """Decide one VNN-LIB property in a process of its own.

    This process loads nothing heavy, not even numpy, keeps the time, and survives whatever happens
    in the other. So the property is read in the other, before that loads anything heavy.

    Args:
        model: the ONNX file.
        spec: the VNN-LIB file.
        timeout: seconds, from when the network is loaded.
        options: engines, limits, seed; the threads follow from the processor.

    Raises:
        InputError: a file or an option cannot be used.
    """
    executor = ProcessExecutor(1)
    work = replace(options or WorkOptions(), threads=executor.threads)
    rows = InstanceList((Instance(model, spec, timeout),), str(spec))
    tasks = property_tasks(rows, work)
    if not tasks[0].model_digest:
        read_file(model, ModelError)  # says why it cannot be read, before anything starts
    try:
        (outcome,) = executor.map_unordered(PropertyWork(work), tasks)
    finally:
        executor.kill()
    answer = outcome.answer
    if not isinstance(answer, Failure):
        return answer
    if answer.bad_input:
        raise InputError(answer.text)
    from closegap.evaluate.recording import failure_record  # numpy

    return failure_record(outcome.task, answer, outcome.seconds)
