"""From answers to records: results, several cases of one property, and failures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from closegap.core.verdict import Reason, Verdict
from closegap.evaluate.tasks import Failure, Task
from closegap.store.records import BracketEvent, Pictures, Record
from closegap.strategy.result import Result

__all__ = ["failure_record", "joined_record", "result_record", "strongest_other"]


def result_record(task: Task, result: Result, pictures: Pictures | None) -> Record:
    """The record of one query's result."""
    return Record(
        key=task.key,
        index=task.index,
        name=task.name,
        label=task.label,
        target=result.target,
        verdict=result.verdict,
        reason=result.reason if result.verdict is Verdict.UNKNOWN else None,
        detail=result.detail,
        lower=result.bracket.lower,
        upper=result.bracket.upper,
        engine=result.engine,
        seconds=result.seconds,
        engine_seconds=dict(result.engine_seconds),
        history=result.history,
        counts=dict(result.counts),
        part_seconds=dict(result.part_seconds),
        pictures=pictures,
    )


def joined_record(
    task: Task, results: Sequence[Result], *, cases: int, seconds: float, pictures: Pictures | None
) -> Record:
    """The record of a property of several cases, each a query of its own.

    The property's least margin is the least over its cases, so its bracket is
    `[min lower, min upper]`; a case that was not reached has an unbounded lower end. Falsified iff
    one case is; verified iff all are.

    Args:
        task: the property.
        results: of the cases that were asked, in order; at least one.
        cases: how many the property has.
        seconds: wall-clock of the whole property.
        pictures: of the falsified case.
    """
    deciding = _deciding(results)
    reached_all = len(results) == cases
    lower = min(r.bracket.lower for r in results) if reached_all else -math.inf
    verdict = deciding.verdict
    if verdict is Verdict.VERIFIED and not reached_all:
        verdict = Verdict.UNKNOWN
    spent: Counter[str] = Counter()
    parts: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for result in results:
        spent.update(result.engine_seconds)
        parts.update(result.part_seconds)
        counts.update({name: n for name, n in result.counts.items() if name != "depth"})
    if any("depth" in result.counts for result in results):
        counts["depth"] = max(result.counts.get("depth", 0) for result in results)
    return Record(
        key=task.key,
        index=task.index,
        name=task.name,
        label=task.label,
        target=deciding.target,
        verdict=verdict,
        reason=(deciding.reason or Reason.TIME) if verdict is Verdict.UNKNOWN else None,
        detail=deciding.detail,
        lower=lower,
        upper=min(r.bracket.upper for r in results),
        engine=deciding.engine,
        seconds=seconds,
        engine_seconds=dict(spent),
        history=_joined_history(results, cases),
        counts=dict(counts),
        part_seconds=dict(parts),
        pictures=pictures,
    )


def failure_record(task: Task, failure: Failure, seconds: float) -> Record:
    """The record of a task that gave none: unknown, with the reason in words."""
    return Record(
        key=task.key,
        index=task.index,
        name=task.name,
        label=task.label,
        target="",
        verdict=Verdict.UNKNOWN,
        reason=failure.reason,
        detail=failure.text,
        lower=-math.inf,
        upper=math.inf,
        engine="",
        seconds=seconds,
    )


def strongest_other(outputs: NDArray[np.float32], label: int) -> int:
    """The class of the greatest output `[C]` but the label's."""
    return int(np.where(np.arange(len(outputs)) == label, -np.inf, outputs).argmax())


def _deciding(results: Sequence[Result]) -> Result:
    """The case falsified by most, else the first that stayed unknown, else the least proved."""
    falsified = [r for r in results if r.verdict is Verdict.FALSIFIED]
    if falsified:
        return min(falsified, key=lambda r: r.bracket.upper)
    for result in results:
        if result.verdict is Verdict.UNKNOWN:
            return result
    return min(results, key=lambda r: r.bracket.lower)


def _joined_history(results: Sequence[Result], cases: int) -> tuple[BracketEvent, ...]:
    """The cases one after another; the lower end is unbounded until the last case is reached."""
    offsets = accumulate((r.seconds for r in results[:-1]), initial=0.0)
    lower, upper = math.inf, math.inf
    events: list[BracketEvent] = []
    for number, (offset, result) in enumerate(zip(offsets, results, strict=True), start=1):
        for event in result.history:
            floor = min(lower, event.lower) if number == cases else -math.inf
            upper = min(upper, event.upper)
            events.append(BracketEvent(offset + event.seconds, event.engine, floor, upper))
        lower = min(lower, result.bracket.lower)
    return tuple(events)
