"""One property in one guarded process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from closegap.core.errors import InputError, ModelError
from closegap.core.files import read_file
from closegap.evaluate.instances import InstanceList, plan_instances
from closegap.evaluate.processes import ProcessExecutor
from closegap.evaluate.recording import failure_record
from closegap.evaluate.tasks import Failure
from closegap.evaluate.work import WorkOptions
from closegap.specs.vnnlib import Instance, load_vnnlib
from closegap.store import Record

__all__ = ["verify_file"]


def verify_file(
    model: Path, spec: Path, *, timeout: float, options: WorkOptions | None = None
) -> Record:
    """Decide one VNN-LIB property in a process of its own.

    This process loads nothing heavy, keeps the time, and survives whatever happens in the other.

    Args:
        model: the ONNX file.
        spec: the VNN-LIB file.
        timeout: seconds, from when the network is loaded.
        options: engines, limits, seed; the threads follow from the processor.

    Raises:
        InputError: a file or an option cannot be used.
    """
    rows = InstanceList((Instance(model, spec, timeout),), str(spec))
    read_file(model, ModelError)  # what is wrong with the files is told before anything starts
    load_vnnlib(spec)
    executor = ProcessExecutor(1)
    work = replace(options or WorkOptions(), threads=executor.threads)
    plan = plan_instances(rows, work)
    try:
        (outcome,) = executor.map_unordered(plan.work, plan.tasks())
    finally:
        executor.kill()
    answer = outcome.answer
    if not isinstance(answer, Failure):
        return answer
    if answer.bad_input:
        raise InputError(answer.text)
    return failure_record(outcome.task, answer, outcome.seconds)
