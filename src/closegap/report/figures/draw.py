"""The one renderer: figure data to inline SVG, by matplotlib."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from closegap.report.figures.data import BarFigure, BarPanel, Figure, LineFigure, Role
from closegap.report.figures.inline import inline_svg
from closegap.report.wording import number, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

__all__ = ["draw"]

#: Stand-ins that the page's two themes replace through class names; they are never shown.
_INK, _MUTED, _GRID = "#000001", "#000002", "#000003"
_ROLES: dict[Role, str] = {
    "verified": "#000004",
    "falsified": "#000005",
    "unknown": "#000006",
    "all": "#000007",
    "time": "#000008",
}
_CLASSES = {_INK: "ink", _MUTED: "muted", _GRID: "grid"} | {c: r for r, c in _ROLES.items()}

#: Lines must be told apart without colour, too.
_DASHES: dict[Role, tuple[float, tuple[float, ...]]] = {
    "verified": (0.0, (6.0, 1.5)),
    "falsified": (0.0, (1.5, 1.5)),
}

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "closegap",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "path.simplify": False,  # it drops corners of step lines
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "legend.handlelength": 1.8,
}

_WIDTH, _HEIGHT = 5.0, 2.9
_BAR_INCHES = 0.27
_NAME_LENGTH = 18
_LABEL_SHARE = 0.045


def draw(figure: Figure, key: str) -> str:
    """Draw a figure as an `<svg>` element; the same data give the same bytes.

    Args:
        figure: what to draw.
        key: prefix of the element's ids, unique on the page.

    Returns:
        HTML-ready SVG whose colours are class names such as `fill-verified`; nothing for a figure
        without data.
    """
    empty = not (figure.lines if isinstance(figure, LineFigure) else figure.categories)
    if empty:
        return ""
    import matplotlib  # heavy: only when a figure is drawn
    from matplotlib.figure import Figure as Canvas

    height = _HEIGHT
    if isinstance(figure, BarFigure):
        height = max(_HEIGHT, _BAR_INCHES * len(figure.categories) + 1.0)
    with matplotlib.rc_context(), _no_glyph_warnings():
        matplotlib.rcdefaults()  # whatever the reader's matplotlibrc says
        matplotlib.rcParams.update(_SETTINGS)
        canvas = Canvas(figsize=(_WIDTH, height), layout="constrained")
        if isinstance(figure, LineFigure):
            _lines(canvas.add_subplot(), figure)
        else:
            panels = canvas.subplots(1, len(figure.panels), sharey=True, squeeze=False)[0]
            for axes, panel in zip(panels, figure.panels, strict=True):
                _bars(axes, panel, figure.categories)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None})
    return inline_svg(text.getvalue(), key, plain(figure.title), plain(figure.summary), _CLASSES)


@contextmanager
def _no_glyph_warnings() -> Iterator[None]:
    """Text stays text and is shown in the reader's own fonts, so ours need not have its glyphs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        yield


def _lines(axes: Axes, figure: LineFigure) -> None:
    for line in figure.lines:
        axes.step(
            line.x,
            line.y,
            where="post",
            color=_ROLES[line.role],
            linestyle="solid" if figure.fill else _DASHES.get(line.role, "solid"),
            linewidth=1.8,
            marker="o" if len(line.x) == 1 else None,
            label=line.name,
            clip_on=False,
        )
    if figure.fill:
        upper, lower = figure.lines[:2]
        axes.fill_between(
            upper.x, lower.y, upper.y, step="post", color=_ROLES["unknown"], alpha=0.28, linewidth=0
        )
    if figure.log_x:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: number(value, 3))
    axes.xaxis.set_minor_formatter(lambda _value, _: "")
    axes.minorticks_off()
    if figure.y_limits is None:
        axes.set_ylim(0, 1.06 * max(max(line.y) for line in figure.lines))
        axes.yaxis.set_major_locator(_ticks(integer=True))
    else:
        axes.set_ylim(*figure.y_limits)
    axes.set_xlabel(figure.x_label)
    axes.set_ylabel(figure.y_label)
    axes.tick_params(labelcolor=_MUTED)
    _legend(axes, len(figure.lines))


def _bars(axes: Axes, panel: BarPanel, categories: tuple[str, ...]) -> None:
    places = range(len(categories))
    starts = [0.0] * len(categories)
    for stack in panel.stacks:
        axes.barh(
            places,
            stack.values,
            left=starts,
            height=0.66,
            color=_ROLES[stack.role],
            label=stack.name,
        )
        starts = [a + b for a, b in zip(starts, stack.values, strict=True)]
    longest = max(*starts, 0.0) if len(starts) > 1 else starts[0]
    room = longest or 1.0
    for place, end, label in zip(places, starts, panel.labels, strict=True):
        axes.text(end + 0.02 * room, place, label, va="center", color=_MUTED, fontsize=8.5)
    axes.set_yticks(list(places), [_short(plain(c)) for c in categories])
    axes.set_ylim(len(categories) - 0.4, -0.6)
    axes.set_xlim(0, room * (1.1 + _LABEL_SHARE * max(map(len, panel.labels))))
    axes.xaxis.set_major_locator(_ticks(nbins=4))
    axes.xaxis.set_major_formatter(lambda value, _: number(value, 3))
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(panel.x_label)
    if len(panel.stacks) > 1:
        _legend(axes, len(panel.stacks))


def _ticks(**options: int) -> Locator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(**options)


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=columns,
        borderaxespad=0.1,
        columnspacing=1.2,
        fontsize=9,
    )
