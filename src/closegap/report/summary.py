"""The counts a run comes down to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from closegap.core.verdict import Verdict
from closegap.store.records import Record, RunHeader

__all__ = ["Summary", "misclassified", "summarise"]


@dataclass(frozen=True)
class Summary:
    """How many queries ended how.

    Attributes:
        done: finished queries; `verified + falsified + unknown`.
        total: queries the run was to answer, at least `done`.
        verified: the property was proved.
        falsified: a witness breaks the property; includes `misclassified`.
        misclassified: falsified by the clean image itself.
        unknown: neither.
        reasons: why queries stayed unknown, the most frequent first.
        seconds: summed over the queries.
        median_seconds: of one query.
        slowest_seconds: of one query.
    """

    done: int
    total: int
    verified: int
    falsified: int
    misclassified: int
    unknown: int
    reasons: tuple[tuple[str, int], ...]
    seconds: float
    median_seconds: float
    slowest_seconds: float

    @property
    def closed(self) -> bool:
        """True iff the run is finished and nothing stayed unknown."""
        return self.unknown == 0 and self.complete

    @property
    def complete(self) -> bool:
        """True iff every query of the run is there."""
        return self.done == self.total


def misclassified(record: Record) -> bool:
    """True iff the clean image itself, with no change, already gets another label."""
    if record.label is None or record.verdict is not Verdict.FALSIFIED:
        return False
    if record.pictures is not None and np.isfinite(record.pictures.clean_outputs).all():
        return int(np.argmax(record.pictures.clean_outputs)) != record.label
    return record.engine == "clean"


def summarise(header: RunHeader, records: Sequence[Record]) -> Summary:
    """Count verdicts, reasons and seconds; no records give zeros."""
    verdicts = Counter(r.verdict for r in records)
    reasons = Counter(
        "no reason given" if r.reason is None else str(r.reason)
        for r in records
        if r.verdict is Verdict.UNKNOWN
    )
    times = [r.seconds for r in records] or [0.0]
    return Summary(
        done=len(records),
        total=max(header.total, len(records)),
        verified=verdicts[Verdict.VERIFIED],
        falsified=verdicts[Verdict.FALSIFIED],
        misclassified=sum(misclassified(r) for r in records),
        unknown=verdicts[Verdict.UNKNOWN],
        reasons=tuple(sorted(reasons.items(), key=lambda item: (-item[1], item[0]))),
        seconds=float(sum(times)),
        median_seconds=float(median(times)),
        slowest_seconds=float(max(times)),
    )
