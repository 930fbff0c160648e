"""A cascade of engines over a data set or a list of properties: resumable, guarded, followed live.

Importing it is light; torch and the engines load in the process that does the work.
"""

from __future__ import annotations

from closegap.evaluate.executors import Executor, SerialExecutor
from closegap.evaluate.instances import InstanceList, plan_instances
from closegap.evaluate.plan import EvaluationPlan, ModelFile, Question, plan_images
from closegap.evaluate.processes import ProcessExecutor, available_cores
from closegap.evaluate.progress import Event, RunStarted, Tally, TaskFinished
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
