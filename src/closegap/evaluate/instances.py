"""Runs over lists of networks and properties, as VNN-COMP has them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from closegap.evaluate import provenance
from closegap.evaluate.plan import EvaluationPlan
from closegap.evaluate.properties import InstanceList, property_tasks
from closegap.evaluate.tasks import Task
from closegap.evaluate.work import PropertyWork, WorkOptions
from closegap.store import RunHeader
from closegap.store.keys import canonical_json

__all__ = ["plan_instances"]


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
    tasks = property_tasks(rows, options)
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


def _digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
