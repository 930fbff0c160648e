"""Counts of a run, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from report_runs import make_header, make_pictures, make_record

from closegap.core.verdict import Reason, Verdict
from closegap.report.summary import misclassified, summarise

V, F, U = Verdict.VERIFIED, Verdict.FALSIFIED, Verdict.UNKNOWN


def test_counts() -> None:
    records = [
        make_record(0, V, seconds=1.0),
        make_record(1, F, seconds=2.0),
        make_record(2, F, seconds=3.0, engine="clean"),
        make_record(3, U, seconds=60.0, reason=Reason.TIME),
        make_record(4, U, seconds=60.0, reason=Reason.TIME),
        make_record(5, U, seconds=6.0, reason=Reason.MEMORY),
    ]
    counts = summarise(make_header(total=9), records)
    assert (counts.done, counts.total, counts.complete, counts.closed) == (6, 9, False, False)
    assert (counts.verified, counts.falsified, counts.misclassified, counts.unknown) == (1, 2, 1, 3)
    assert counts.reasons == (("time", 2), ("memory", 1))
    assert (counts.seconds, counts.median_seconds, counts.slowest_seconds) == (132.0, 4.5, 60.0)


def test_closed_only_when_nothing_is_missing() -> None:
    records = [make_record(0, V), make_record(1, F)]
    assert summarise(make_header(total=2), records).closed
    assert not summarise(make_header(total=3), records).closed
    assert summarise(make_header(total=0), records).total == 2


def test_no_records() -> None:
    counts = summarise(make_header(total=5), [])
    assert (counts.done, counts.total, counts.seconds) == (0, 5, 0.0)


def test_the_clean_outputs_say_what_is_misclassified(rng: np.random.Generator) -> None:
    pictures = make_pictures((1, 4, 4), rng, label=3)
    right = make_record(0, F, label=3, pictures=pictures, engine="clean")
    assert not misclassified(right)
    assert misclassified(replace(right, label=4, engine="pgd"))
    assert not misclassified(replace(right, label=None))
    assert not misclassified(make_record(0, V, engine="clean"))
    assert misclassified(make_record(0, F, engine="clean"))
