"""How near the nearest counterexamples are, distance by distance."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from closegap.report.options import ReportOptions
from closegap.report.sections.base import SectionView
from closegap.report.wording import MISSING, count, number, seconds
from closegap.store.distances import DistanceRecord
from closegap.store.records import RunHeader

__all__ = ["METRICS", "ROUNDING", "distance_name", "nearness"]

_SYMBOLS = {
    "linf": "ℓ∞", "l2": "ℓ2", "l1": "ℓ1", "l0": "ℓ0", "l1+tv": "ℓ1+TV",
    "weighted-l1": "weighted ℓ1",
}  # fmt: skip

#: Metrics of a record by name, with their headings; of all but the pixels, higher is sparser or
#: less visible.
METRICS = {
    "pixels": "pixels changed",
    "sparsity": "sparsity, %",
    "invisibility": "invisibility, %",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
}


#: What a record says of its witness as an 8-bit picture, for people.
ROUNDING = {
    "kept": "loses the label",
    "repaired": "loses the label, repaired",
    "lost": "keeps the label",
}


def distance_name(record: DistanceRecord) -> str:
    """`ℓ1+TV, kappa 0.1`: the distance and what defines it."""
    name = _SYMBOLS.get(record.distance, record.distance)
    facts = (
        key if value is True else f"{key} {number(value) if isinstance(value, float) else value}"
        for key, value in record.options.items()
        if value is not False
    )
    return ", ".join((name, *facts))


def nearness(
    header: RunHeader, records: Sequence[DistanceRecord], options: ReportOptions
) -> SectionView | None:
    """Counts and medians, a row for each distance."""
    by_name: dict[str, list[DistanceRecord]] = {}
    for record in records:
        by_name.setdefault(distance_name(record), []).append(record)
    states = Counter(record.state for record in records)
    title = "Nothing is finished yet"
    if records:
        asked = len(records) - states["misclassified"]
        closed = states["closed"] + states["none exists"]
        title = f"Least distances: {closed} of {asked} brackets closed"
    known = [name for name in METRICS if any(name in record.metrics for record in records)]
    return SectionView(
        title=title,
        template="nearness.html.j2",
        context={
            "complete": len(records) >= header.total,
            "done": len(records),
            "total": count(max(header.total, len(records)), "query", "queries"),
            "misclassified": states["misclassified"],
            "none_exists": states["none exists"],
            "headings": (
                "distance", "images", "found", "as 8-bit pictures", "closed",
                "median lower", "median upper",
                "median lower / upper", *(f"median {METRICS[name]}" for name in known),
                "median time",
            ),
            "rows": [_row(name, held, known) for name, held in by_name.items()],
        },
    )  # fmt: skip


def _row(name: str, held: Sequence[DistanceRecord], metrics: Sequence[str]) -> tuple[str, ...]:
    """Misclassified images have no distance, those without counterexamples none that ends."""
    records = [r for r in held if not r.misclassified]
    bounded = [r for r in records if not r.none_exists]
    found = [r for r in bounded if math.isfinite(r.upper)]
    return (
        name,
        str(len(records)),
        str(len(found)),
        _pictures(found),
        str(sum(r.closed for r in records)),
        _median(r.lower for r in bounded),
        _median(r.upper for r in found),
        _median(r.lower / r.upper for r in found if r.upper > 0),
        *(_median(r.metrics[m] for r in found if m in r.metrics) for m in metrics),
        seconds(median(r.seconds for r in records)) if records else MISSING,
    )


def _pictures(found: Sequence[DistanceRecord]) -> str:
    """How many witnesses lose the label as 8-bit pictures, too, and how many had to be repaired."""
    became = Counter(r.rounding for r in found)
    kept, repaired = became["kept"] + became["repaired"], became["repaired"]
    return f"{kept}, {repaired} repaired" if repaired else f"{kept}"


def _median(values: Iterable[float]) -> str:
    held = list(values)
    return number(median(held)) if held else MISSING
