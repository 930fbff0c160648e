"""What opens under a row of a table, and numbers as the page's script reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from closegap.report.options import ReportOptions
from closegap.report.wording import number, seconds
from closegap.store.distances import DistanceRecord
from closegap.store.records import BracketEvent, Record

__all__ = ["details", "sortable"]


def sortable(value: float) -> str:
    """As the page's script reads numbers; empty sorts last."""
    if math.isnan(value):
        return ""
    return repr(float(value)).replace("inf", "Infinity")


def details(
    record: Record | DistanceRecord, spent: Mapping[str, float], options: ReportOptions
) -> dict[str, object]:
    """Only what the row itself does not say; the keys are short because there are many rows.

    Args:
        record: of one query.
        spent: seconds of its parts, by name.
        options: how long a history may be.
    """
    kept = record.history[max(0, len(record.history) - options.history) :]
    return {
        "detail": record.detail,
        "engines": [[name, seconds(part)] for name, part in spent.items()],
        "counts": [[name, f"{many:,}".replace(",", " ")] for name, many in record.counts.items()],
        "history": [_event(event) for event in kept],
        "earlier": len(record.history) - len(kept),
    }


def _event(event: BracketEvent) -> list[str]:
    return [seconds(event.seconds), event.engine, number(event.lower), number(event.upper)]
