"""A cascade of engines over a data set or a list of properties: resumable, guarded, followed live.

Importing it is light, and so are its parts; torch and the engines load in the process that does
the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from closegap.core.imports import lazily

if TYPE_CHECKING:
    from closegap.evaluate.executors import Executor, SerialExecutor
    from closegap.evaluate.instances import plan_instances
    from closegap.evaluate.plan import EvaluationPlan, ModelFile, Question, plan_images
    from closegap.evaluate.processes import ProcessExecutor, available_cores
    from closegap.evaluate.progress import Event, RunStarted, Tally, TaskFinished
    from closegap.evaluate.properties import InstanceList
    from closegap.evaluate.run import Summary, evaluate
    from closegap.evaluate.single import verify_file
    from closegap.evaluate.work import Solver, WorkOptions

__all__ = [
    "EvaluationPlan",
    "Event",
    "Executor",
    "InstanceList",
    "ModelFile",
    "ProcessExecutor",
    "Question",
    "RunStarted",
    "SerialExecutor",
    "Solver",
    "Summary",
    "Tally",
    "TaskFinished",
    "WorkOptions",
    "available_cores",
    "evaluate",
    "plan_images",
    "plan_instances",
    "verify_file",
]

_HOME = {
    "EvaluationPlan": "plan",
    "Event": "progress",
    "Executor": "executors",
    "InstanceList": "properties",
    "ModelFile": "plan",
    "ProcessExecutor": "processes",
    "Question": "plan",
    "RunStarted": "progress",
    "SerialExecutor": "executors",
    "Solver": "work",
    "Summary": "run",
    "Tally": "progress",
    "TaskFinished": "progress",
    "WorkOptions": "work",
    "available_cores": "processes",
    "evaluate": "run",
    "plan_images": "plan",
    "plan_instances": "instances",
    "verify_file": "single",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
