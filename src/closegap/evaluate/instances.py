"""Runs over lists of networks and properties, as VNN-COMP has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from closegap.core.errors import InputError
from closegap.core.files import read_file
from closegap.evaluate import provenance
from closegap.evaluate.plan import EvaluationPlan
from closegap.evaluate.tasks import PropertyTask, Task
from closegap.evaluate.work import PropertyWork, WorkOptions
from closegap.specs.vnnlib import Instance
from closegap.store import RunHeader, query_key
from closegap.store.keys import canonical_json

__all__ = ["InstanceList", "plan_instances"]

_SUFFIXES = (".gz", ".onnx", ".vnnlib")


@dataclass(frozen=True)
class InstanceList:
    """What is to be decided.

    Attributes:
        instances: rows of the list, in order.
        source: the list's path, for the report.
        cap: seconds that no instance exceeds, whatever its row says.
    """

    instances: tuple[Instance, ...]
    source: str
    cap: float | None = None

    def timeout(self, instance: Instance) -> float:
        """Seconds for one instance."""
        return instance.timeout if self.cap is None else min(self.cap, instance.timeout)


def plan_instances(
    rows: InstanceList, options: WorkOptions, *, command: str = ""
) -> EvaluationPlan:
    """The run that decides every property of a list.

    A file that is missing or cannot be used is the answer of its own instance; the others go on.

    Args:
        rows: the list.
        options: engines, seed, threads.
        command: the command line, for the report.
    """
    tasks = _tasks(rows, options)
    models = {(task.model, task.model_digest) for task in tasks}
    only = models.pop() if len(models) == 1 else ("", "")
    header = RunHeader(
        kind="instances",
        model=only[0],
        model_digest=only[1],
        data=rows.source,
        data_digest=_digest_of(canonical_json([task.key for task in tasks]).encode()),
        eps=None,
        norm="",
        timeout=max((task.timeout for task in tasks), default=0.0),
        engines=options.engines,
        settings=options.limits,
        seed=options.seed,
        command=command,
        versions=provenance.versions(),
        machine=provenance.machine(),
        started=provenance.now(),
        total=len(tasks),
    )

    def again() -> Iterator[Task]:
        return iter(tasks)

    return EvaluationPlan(header, again, PropertyWork(options), one_model=False)


def _tasks(rows: InstanceList, options: WorkOptions) -> Sequence[PropertyTask]:
    @cache
    def content(path: Path) -> bytes:
        """Digest of a file; of nothing when it cannot be read, which its own task will tell."""
        try:
            return hashlib.sha256(read_file(path, InputError)).hexdigest().encode()
        except InputError:
            return b""

    tasks = []
    for index, instance in enumerate(rows.instances):
        timeout = rows.timeout(instance)
        model = content(instance.onnx).decode()
        key = query_key(
            model=model,
            inputs=content(instance.vnnlib),
            query={"index": index},
            settings={
                **options.limits,
                "engines": list(options.engines),
                "timeout": timeout,
                "seed": options.seed,
            },
        )
        name = f"{_stem(instance.onnx)} {_stem(instance.vnnlib)}"
        tasks.append(
            PropertyTask(key, index, name, timeout, str(instance.onnx), model, str(instance.vnnlib))
        )
    return tasks


def _stem(path: Path) -> str:
    """The file's name without its suffixes."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
