"""The figures of a report: records in, frozen figure data out; one renderer draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from closegap.report.figures.bracket import bracket
from closegap.report.figures.cactus import cactus
from closegap.report.figures.data import BarFigure, BarPanel, Bars, Figure, Line, LineFigure
from closegap.report.figures.engines import engines
from closegap.report.figures.groups import groups
from closegap.store.records import Record, RunHeader

__all__ = [
    "FIGURES",
    "BarFigure",
    "BarPanel",
    "Bars",
    "Figure",
    "Line",
    "LineFigure",
    "bracket",
    "cactus",
    "engines",
    "groups",
]

#: Every figure of the report, in the order shown; a new one is a file and a line here.
FIGURES: dict[str, Callable[[RunHeader, Sequence[Record]], Figure]] = {
    "bracket": bracket,
    "cactus": cactus,
    "engines": engines,
    "groups": groups,
}
