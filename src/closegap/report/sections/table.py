"""All queries, one a row."""

from __future__ import annotations

from collections.abc import Sequence

from closegap.core.verdict import Verdict
from closegap.report.options import ReportOptions
from closegap.report.sections.base import SectionView
from closegap.report.sections.details import details, sortable
from closegap.report.summary import misclassified
from closegap.report.wording import MISSING, class_name, number, seconds
from closegap.store.records import Record, RunHeader

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
            "details": [details(r, r.engine_seconds | r.part_seconds, options) for r in records],
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
        "lower_value": sortable(record.lower),
        "upper": number(record.upper),
        "upper_value": sortable(record.upper),
        "engine": record.engine or MISSING,
        "seconds": seconds(record.seconds),
        "seconds_value": sortable(record.seconds),
    }
