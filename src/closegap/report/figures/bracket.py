"""The bracket of the run, query after query."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from closegap.core.verdict import Verdict
from closegap.report.figures.data import Line, LineFigure
from closegap.report.wording import number, seconds
from closegap.store.records import Record, RunHeader

__all__ = ["bracket"]


def bracket(header: RunHeader, records: Sequence[Record]) -> LineFigure:
    """`[verified %, 100 - falsified %]` of the queries so far, in the order of `records`.

    x is the sum of the seconds of these queries: time spent, not time of day, so that the figure
    is the same however many workers ran.
    """
    verified = list(accumulate(r.verdict is Verdict.VERIFIED for r in records))
    falsified = list(accumulate(r.verdict is Verdict.FALSIFIED for r in records))
    spent = tuple(accumulate((r.seconds for r in records), initial=0.0))
    done = range(1, len(records) + 1)
    lower = (0.0, *(100.0 * v / n for v, n in zip(verified, done, strict=True)))
    upper = (100.0, *(100.0 - 100.0 * f / n for f, n in zip(falsified, done, strict=True)))
    lines = (
        Line("not falsified", "falsified", spent, upper),
        Line("verified", "verified", spent, lower),
    )
    return LineFigure(
        title="Bracket over time",
        lead="Share of the queries so far that is verified, and that is not falsified.",
        summary=(
            f"After {len(records)} queries and {seconds(spent[-1])}: {number(lower[-1], 3)} % "
            f"verified, {number(upper[-1], 3)} % not falsified."
        ),
        x_label="seconds spent, all queries so far",
        y_label="% of queries",
        lines=lines if records else (),
        y_limits=(0.0, 100.0),
        fill=True,
        empty="No query is finished.",
    )
