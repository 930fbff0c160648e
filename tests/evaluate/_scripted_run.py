"""A run of scripted work; as a program `_scripted_run.py STORE JOURNAL WORKERS COUNT`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from _scripted_work import ScriptedWork, task

from closegap.evaluate import EvaluationPlan, ProcessExecutor, TaskFinished, evaluate
from closegap.evaluate.tasks import Task
from closegap.store import RunHeader, RunStore


def header(total: int) -> RunHeader:
    return RunHeader(
        kind="evaluate", model="net.onnx", model_digest="m", data="digits", data_digest="d",
        eps=0.1, norm="inf", timeout=5.0, engines=("crown",), settings={}, seed=0, command="",
        versions={}, machine={}, started="2026-01-01T00:00:00+00:00", total=total,
    )  # fmt: skip


def plan(names: list[str], journal: str = "", one_model: bool = True) -> EvaluationPlan:
    def tasks() -> Iterator[Task]:
        return (task(index, name) for index, name in enumerate(names))

    return EvaluationPlan(header(len(names)), tasks, ScriptedWork(journal), one_model)


def main() -> None:
    path, journal, workers, count = sys.argv[1:]
    made = plan(["sleep 0.05"] * int(count), journal)
    with RunStore.create_or_resume(path, made.header) as store:
        evaluate(
            made,
            ProcessExecutor(int(workers)),
            store,
            lambda event: print(isinstance(event, TaskFinished), flush=True),
        )


if __name__ == "__main__":
    main()
