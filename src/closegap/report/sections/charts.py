"""The figures, each with its numbers where they are few."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from closegap.report.figures import FIGURES, BarFigure, Figure
from closegap.report.figures.draw import draw
from closegap.report.options import ReportOptions
from closegap.report.sections.base import SectionView
from closegap.report.wording import number
from closegap.store.records import Record, RunHeader

__all__ = ["charts"]


def charts(
    header: RunHeader, records: Sequence[Record], options: ReportOptions
) -> SectionView | None:
    """Every figure of the registry; nothing before the first query is finished."""
    if not records:
        return None
    made = {key: make(header, records) for key, make in FIGURES.items()}
    items = [
        {
            "key": key,
            "figure": figure,
            "svg": Markup(draw(figure, f"figure-{key}")),
            "table": _table(figure),
        }
        for key, figure in made.items()
    ]
    return SectionView("How the run went", "figures.html.j2", {"items": items})


def _table(figure: Figure) -> dict[str, object] | None:
    if not isinstance(figure, BarFigure) or not figure.categories:
        return None
    stacks = [stack for panel in figure.panels for stack in panel.stacks]
    return {
        "headings": [figure.heading, *(stack.name for stack in stacks)],
        "rows": [
            [name, *(number(stack.values[i]) for stack in stacks)]
            for i, name in enumerate(figure.categories)
        ],
    }
