"""All distance queries, one a row."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from closegap.report.options import ReportOptions
from closegap.report.sections.base import SectionView
from closegap.report.sections.details import details, sortable
from closegap.report.sections.nearness import METRICS, distance_name
from closegap.report.wording import MISSING, class_name, number, seconds
from closegap.store.distances import DistanceRecord
from closegap.store.records import RunHeader

__all__ = ["distance_table"]

#: States in the order of their buttons, and the colours of their marks.
_MARKS = {
    "closed": "verified",
    "none exists": "verified",
    "misclassified": "falsified",
    "open": "unknown",
}


def distance_table(
    header: RunHeader, records: Sequence[DistanceRecord], options: ReportOptions
) -> SectionView | None:
    """A row for each query, with what opens under it kept as data for the page's script."""
    if not records:
        return None
    known = [name for name in METRICS if any(name in record.metrics for record in records)]
    tally = Counter(record.state for record in records)
    return SectionView(
        title="All distances",
        template="distance_table.html.j2",
        lead="Sort by any column; open a row for the history of its bracket.",
        context={
            "rows": [_row(record, header, known) for record in records],
            "metrics": [METRICS[name] for name in known],
            "details": [details(r, r.part_seconds, options) for r in records],
            "tally": {state: many for state in _MARKS if (many := tally[state])},
            "marks": _MARKS,
        },
    )


def _row(record: DistanceRecord, header: RunHeader, metrics: Sequence[str]) -> dict[str, object]:
    target = None if record.target is None else str(record.target)
    share = record.lower / record.upper if 0 < record.upper < math.inf else math.nan
    numbers = [record.lower, record.upper, share]
    numbers += [record.metrics.get(name, math.nan) for name in metrics]
    return {
        "index": record.index,
        "label": class_name(record.label, header),
        "label_value": record.label,
        "distance": distance_name(record),
        "target": class_name(target, header),
        "state": record.state,
        "rounding": record.rounding or MISSING,
        "numbers": [(sortable(value), number(value)) for value in numbers],
        "seconds": seconds(record.seconds),
        "seconds_value": sortable(record.seconds),
    }
