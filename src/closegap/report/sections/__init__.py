"""The parts of the page; a new one is a file, a template and a line here."""

from __future__ import annotations

from closegap.report.sections.base import DistanceSection, Section, SectionView
from closegap.report.sections.charts import charts
from closegap.report.sections.distance_table import distance_table
from closegap.report.sections.headline import headline
from closegap.report.sections.nearest import nearest
from closegap.report.sections.nearness import nearness
from closegap.report.sections.provenance import provenance
from closegap.report.sections.table import table
from closegap.report.sections.witnesses import witnesses

__all__ = ["DISTANCE_SECTIONS", "SECTIONS", "DistanceSection", "Section", "SectionView"]

#: By the id the part has on the page, in the order shown.
SECTIONS: dict[str, Section] = {
    "headline": headline,
    "figures": charts,
    "witnesses": witnesses,
    "queries": table,
    "provenance": provenance,
}

#: The same of the page of a run of distance queries.
DISTANCE_SECTIONS: dict[str, DistanceSection] = {
    "headline": nearness,
    "nearest": nearest,
    "queries": distance_table,
    "provenance": provenance,
}
