"""Cactus plot: how many queries a time limit would have solved."""

from __future__ import annotations

from collections.abc import Sequence

from closegap.core.verdict import Verdict
from closegap.report.figures.data import Line, LineFigure, Role
from closegap.report.wording import seconds
from closegap.store.records import Record, RunHeader

__all__ = ["cactus"]

#: Shorter times are drawn here: a logarithmic axis has no zero.
_SHORTEST_SECONDS = 0.001

#: Times that span more than this factor are drawn on a logarithmic axis.
_LOG_FROM = 30.0


def cactus(header: RunHeader, records: Sequence[Record]) -> LineFigure:
    """Solved queries against the seconds each took: all decided, verified, falsified.

    `y[i]` of a line is the number of queries of that kind that took `x[i]` seconds or less.
    """
    kinds: tuple[tuple[str, Role, tuple[Verdict, ...]], ...] = (
        ("decided", "all", (Verdict.VERIFIED, Verdict.FALSIFIED)),
        ("verified", "verified", (Verdict.VERIFIED,)),
        ("falsified", "falsified", (Verdict.FALSIFIED,)),
    )
    lines = tuple(
        Line(name, role, times, tuple(float(k + 1) for k in range(len(times))))
        for name, role, verdicts in kinds
        if (times := _sorted_times(records, verdicts))
    )
    times = lines[0].x if lines else ()
    summary = "Nothing was decided."
    if times:
        summary = (
            f"{len(times)} of {len(records)} decided; half of these within "
            f"{seconds(times[(len(times) - 1) // 2])} each, the slowest after {seconds(times[-1])}."
        )
    return LineFigure(
        title="Solved against time",
        lead="How many queries would be decided if each had only this many seconds.",
        summary=summary,
        x_label="seconds for one query",
        y_label="queries decided",
        lines=lines,
        log_x=bool(times) and times[-1] > _LOG_FROM * times[0],
        empty="Nothing was decided.",
    )


def _sorted_times(records: Sequence[Record], verdicts: tuple[Verdict, ...]) -> tuple[float, ...]:
    return tuple(
        sorted(max(r.seconds, _SHORTEST_SECONDS) for r in records if r.verdict in verdicts)
    )
