"""The answer in one line and one bar, and what its words mean."""

from __future__ import annotations

from collections.abc import Sequence

from closegap.report.options import ReportOptions
from closegap.report.sections.base import SectionView
from closegap.report.summary import Summary, summarise
from closegap.report.wording import number, percent, percent_down, percent_up, radius
from closegap.store.records import Record, RunHeader

__all__ = ["headline"]

_NORM_WORDS = {
    "inf": "every change of each input value by up to",
    "1": "every change whose absolute values sum to at most",
    "2": "every change of Euclidean length up to",
}


def headline(
    header: RunHeader, records: Sequence[Record], options: ReportOptions
) -> SectionView | None:
    """The bracket of the run, its counts, and a legend in plain words."""
    counts = summarise(header, records)
    images = header.kind == "evaluate"
    return SectionView(
        title=_title(counts, images),
        template="headline.html.j2",
        context={
            "counts": counts,
            "one": "image" if images else "property",
            "many": "images" if images else "properties",
            "images": images,
            "bar": _bar(counts),
            "whole": _whole(counts),
            "radius": radius(header),
            "change": _change(header),
            "timeout": number(header.timeout),
        },
    )


def _title(counts: Summary, images: bool) -> str:
    if not counts.done:
        return "Nothing is finished yet"
    so_far = "" if counts.complete else " so far"
    if images:
        start = f"Robust accuracy{so_far}"
        if counts.unknown == 0:
            return f"{start}: {percent(counts.verified, counts.done)}"
        return f"{start}: between {_lower(counts)} and {_upper(counts)}"
    if counts.unknown == 0:  # a closed bracket is one number; rounding must not open it again
        return f"{percent(counts.verified, counts.done)} of the properties hold{so_far}"
    return f"Between {_lower(counts)} and {_upper(counts)} of the properties hold{so_far}"


def _lower(counts: Summary) -> str:
    return percent_down(counts.verified, counts.done)


def _upper(counts: Summary) -> str:
    return percent_up(counts.done - counts.falsified, counts.done)


def _whole(counts: Summary) -> tuple[str, str] | None:
    """What is known of the whole run while queries are missing."""
    if counts.complete:
        return None
    return (
        percent_down(counts.verified, counts.total),
        percent_up(counts.total - counts.falsified, counts.total),
    )


def _bar(counts: Summary) -> dict[str, tuple[str, str]]:
    """Start and width, in percent of the bar, of each of its parts."""
    parts = (
        ("verified", counts.verified),
        ("unknown", counts.unknown),
        ("falsified", counts.falsified - counts.misclassified),
        ("misclassified", counts.misclassified),
    )
    placed: dict[str, tuple[str, str]] = {}
    start = 0
    for name, many in parts:
        if many:
            share = 100 / counts.done
            placed[name] = (f"{start * share:.4f}%", f"{many * share:.4f}%")
        start += many
    return placed


def _change(header: RunHeader) -> str:
    """The region in plain words, or nothing for a list of properties."""
    if header.eps is None:
        return ""
    words = _NORM_WORDS.get(header.norm, "every change within radius")
    return f"{words} {number(header.eps)}"
