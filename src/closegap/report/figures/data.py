"""What a figure says, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["BarFigure", "BarPanel", "Bars", "Figure", "Line", "LineFigure", "Role"]

#: What a mark stands for; it decides the colour, on the whole page.
Role = Literal["verified", "falsified", "unknown", "all", "time"]


@dataclass(frozen=True)
class Line:
    """A step line: `y[i]` holds from `x[i]` on, until `x[i + 1]`."""

    name: str
    role: Role
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class LineFigure:
    """Step lines over one pair of axes.

    Attributes:
        title: heading.
        lead: one sentence: how to read it.
        summary: the same facts in words, for those who cannot see it.
        x_label: with unit.
        y_label: with unit.
        lines: in the order they are drawn; may be empty, then `empty` is shown.
        log_x: the x axis is logarithmic; every x is positive.
        y_limits: of the y axis, or `None` to fit.
        fill: shade between the first two lines.
        empty: what to say instead of lines.
    """

    title: str
    lead: str
    summary: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    log_x: bool = False
    y_limits: tuple[float, float] | None = None
    fill: bool = False
    empty: str = ""


@dataclass(frozen=True)
class Bars:
    """One stack of a bar panel: a value for each category."""

    name: str
    role: Role
    values: tuple[float, ...]


@dataclass(frozen=True)
class BarPanel:
    """Horizontal bars, stacked, with the text that stands at their ends.

    Attributes:
        x_label: what is measured, with unit.
        stacks: from left to right.
        labels: at the end of each bar.
    """

    x_label: str
    stacks: tuple[Bars, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class BarFigure:
    """Panels of horizontal bars that share their categories.

    Attributes:
        title: heading.
        lead: one sentence: how to read it.
        summary: the same facts in words.
        heading: what the categories are.
        categories: from top to bottom; may be empty, then `empty` is shown.
        panels: from left to right.
        empty: what to say instead of bars.
    """

    title: str
    lead: str
    summary: str
    heading: str
    categories: tuple[str, ...]
    panels: tuple[BarPanel, ...]
    empty: str = ""


Figure = LineFigure | BarFigure
