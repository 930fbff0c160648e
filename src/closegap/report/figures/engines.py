"""Where the time went, and which engine decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from closegap.core.verdict import Verdict
from closegap.report.figures.data import BarFigure, BarPanel, Bars
from closegap.report.wording import seconds
from closegap.store.records import Record, RunHeader

__all__ = ["engines"]


def engines(header: RunHeader, records: Sequence[Record]) -> BarFigure:
    """Total seconds and decisions by engine, in the order the engines run."""
    spent: dict[str, float] = {}
    for record in records:
        for name, amount in record.engine_seconds.items():
            spent[name] = spent.get(name, 0.0) + amount
    decided = {
        verdict: Counter(r.engine for r in records if r.verdict is verdict and r.engine)
        for verdict in (Verdict.VERIFIED, Verdict.FALSIFIED)
    }
    seen = [n for n in (*spent, *decided[Verdict.VERIFIED], *decided[Verdict.FALSIFIED]) if n]
    known = set(seen)
    names = tuple(dict.fromkeys([n for n in header.engines if n in known] + seen))
    verified = tuple(float(decided[Verdict.VERIFIED][n]) for n in names)
    falsified = tuple(float(decided[Verdict.FALSIFIED][n]) for n in names)
    times = tuple(spent.get(n, 0.0) for n in names)
    both = [int(v + f) for v, f in zip(verified, falsified, strict=True)]
    return BarFigure(
        title="Where the time went",
        lead="Seconds spent in each engine, and how many queries it was the one to decide.",
        summary="; ".join(
            f"{n}: {seconds(t)}, decided {k}" for n, t, k in zip(names, times, both, strict=True)
        )
        + ".",
        heading="engine",
        categories=names,
        panels=(
            BarPanel(
                x_label="total seconds",
                stacks=(Bars("seconds", "time", times),),
                labels=tuple(map(seconds, times)),
            ),
            BarPanel(
                "queries decided",
                (Bars("verified", "verified", verified), Bars("falsified", "falsified", falsified)),
                tuple(str(k) for k in both),
            ),
        ),
        empty="No engine ran.",
    )
