"""What a section of the page is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from closegap.report.options import ReportOptions
from closegap.store.distances import DistanceRecord
from closegap.store.records import Record, RunHeader

__all__ = ["DistanceSection", "Section", "SectionView"]


@dataclass(frozen=True)
class SectionView:
    """One part of the page, ready for its template.

    Attributes:
        title: its heading.
        template: file name under `templates/`; it sees the names of `context`, and `header`.
        context: values for the template; text in it is escaped there.
        lead: a sentence under the heading, or empty.
    """

    title: str
    template: str
    context: Mapping[str, object] = field(default_factory=dict)
    lead: str = ""


#: Makes one part of the page, or `None` where the run has nothing to say there.
Section = Callable[[RunHeader, Sequence[Record], ReportOptions], SectionView | None]

#: The same for a run of distance queries.
DistanceSection = Callable[[RunHeader, Sequence[DistanceRecord], ReportOptions], SectionView | None]
