"""All queries, one a row."""

from __future__ import annotations

import math
from collections.abc import Sequence

from closegap.core.verdict import Verdict
from closegap.report.options import ReportOptions
from closegap.report.sections.base import SectionView
from closegap.report.summary import misclassified
from closegap.report.wording import MISSING, class_name, number, seconds
from closegap.store.records import BracketEvent, Record, RunHeader

__all__ = ["table"]


def table(
    header: RunHeader, records: Sequence[Record], options: ReportOptions
) -> SectionView | None:
    """A row for each query, with what opens under it kept as data for the page's script."""
    if not records:
        return None
    images = header.kind == "evaluate"
    return SectionView(
        title="All images" if images else "All properties",
        template="table.html.j2",
        lead="Sort by any column; open a row for the history of its bracket.",
        context={
            "rows": [_row(r, header) for r in records],
            "named": any(r.name for r in records),
            "labelled": any(r.label is not None for r in records),
            "details": [_detail(r, options) for r in records],
            "tally": {v: sum(r.verdict == v for r in records) for v in Verdict},
            "many": "images" if images else "properties",
        },
    )


def _row(record: Record, header: RunHeader) -> dict[str, object]:
    reason = "" if record.reason is None else str(record.reason)
    return {
        "index": record.index,
        "name": record.name,
        "label": class_name(record.label, header),
        "label_value": "" if record.label is None else record.label,
        "target": class_name(record.target, header),
        "target_value": record.target,
        "verdict": str(record.verdict),
        "reason": "misclassified" if misclassified(record) else reason,
        "lower": number(record.lower),
        "lower_value": _sortable(record.lower),
        "upper": number(record.upper),
        "upper_value": _sortable(record.upper),
        "engine": record.engine or MISSING,
        "seconds": seconds(record.seconds),
        "seconds_value": _sortable(record.seconds),
    }


def _sortable(value: float) -> str:
    """As the page's script reads numbers; empty sorts last."""
    if math.isnan(value):
        return ""
    return repr(float(value)).replace("inf", "Infinity")


def _detail(record: Record, options: ReportOptions) -> dict[str, object]:
    """Only what the row itself does not say; the keys are short because there are many rows."""
    kept = record.history[max(0, len(record.history) - options.history) :]
    return {
        "detail": record.detail,
        "engines": [
            [name, seconds(spent)]
            for name, spent in (record.engine_seconds | record.part_seconds).items()
        ],
        "counts": [[name, f"{many:,}".replace(",", " ")] for name, many in record.counts.items()],
        "history": [_event(event) for event in kept],
        "earlier": len(record.history) - len(kept),
    }


def _event(event: BracketEvent) -> list[str]:
    return [seconds(event.seconds), event.engine, number(event.lower), number(event.upper)]
