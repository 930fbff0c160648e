"""The one loop over the queries of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from closegap.core.errors import InputError
from closegap.evaluate.executors import Executor
from closegap.evaluate.plan import EvaluationPlan
from closegap.evaluate.progress import Event, RunStarted, Tally, TaskFinished
from closegap.evaluate.recording import failure_record
from closegap.evaluate.tasks import Failure, Outcome
from closegap.store import Record, RunStore, SnapshotFolder

__all__ = ["Summary", "evaluate"]


@dataclass(frozen=True)
class Summary:
    """A run that came to its end.

    Attributes:
        tally: of every query the plan asks, from this session and earlier ones.
        seconds: wall-clock of this session.
        resumed: how many queries were in the store before.
    """

    tally: Tally
    seconds: float
    resumed: int


def evaluate(
    plan: EvaluationPlan,
    executor: Executor,
    store: RunStore,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Summary:
    """Answer every query of the plan that the store does not hold yet.

    Each record is in the store before its event is sent. Whatever ends the loop early (an
    interruption, a full disk), every worker is killed first and the store is valid.

    Args:
        plan: what is asked.
        executor: where the work is done; it is closed at the end.
        store: of this plan's run; see `RunStore.create_or_resume`.
        on_event: told when the run starts and when a query is finished.

    Raises:
        InputError: something the user gave cannot be used, and every query needs it.
        StoreError: the store cannot be written.
    """
    began = time.monotonic()
    records = _resumed(plan, store)
    finished = frozenset(record.key for record in records)
    tally = Tally(total=sum(1 for _ in plan.tasks()))
    for record in records:
        tally = tally.counted(record)
    on_event(RunStarted(tally, records))
    waiting = (task for task in plan.tasks() if task.key not in finished)
    try:
        for outcome in executor.map_unordered(plan.work, waiting):
            record = _record(outcome, plan)
            store.add(record)
            SnapshotFolder.beside(store.path).discard(record.key)  # only now is its answer safe
            tally = tally.after(record, time.monotonic() - began)
            trace = outcome.answer.trace if isinstance(outcome.answer, Failure) else ""
            on_event(TaskFinished(record, tally, trace))
    except BaseException:
        executor.kill()
        raise
    executor.close()
    return Summary(tally, time.monotonic() - began, len(records))


def _resumed(plan: EvaluationPlan, store: RunStore) -> tuple[Record, ...]:
    """What the store holds of this plan; puts down how many queries the run now has."""
    asked = frozenset(task.key for task in plan.tasks())
    finished = store.finished_keys()
    total = len(asked | finished)
    if total != store.header().total:
        store.set_total(total)
    if not asked & finished:
        return ()
    return tuple(r for r in store.records(pictures=False) if r.key in asked)


def _record(outcome: Outcome, plan: EvaluationPlan) -> Record:
    answer = outcome.answer
    if not isinstance(answer, Failure):
        return answer
    if answer.bad_input and plan.one_model:
        raise InputError(answer.text)
    return failure_record(outcome.task, answer, outcome.seconds)
