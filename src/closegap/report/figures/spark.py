"""A bracket over time in a few square centimetres: steps in, a small inline SVG out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from closegap.report.wording import number, seconds
from closegap.store.records import BracketEvent

__all__ = ["Spark", "bracket_spark", "draw_spark"]

_WIDTH, _HEIGHT = 240.0, 120.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 6.0, 6.0, 8.0, 20.0
#: Earlier events are drawn here: a logarithmic axis has no zero.
_FIRST_SECONDS = 0.01
#: The axis is logarithmic once the last event is this many times later than the first.
_LOG_FROM = 30.0


@dataclass(frozen=True)
class Spark:
    """Two step lines over time.

    Attributes:
        seconds: when each step begins, ascending; the last entry ends the last step.
        lower: `lower[i]` holds from `seconds[i]` to `seconds[i + 1]`.
        upper: likewise; infinite where nothing is attained yet.
        summary: the same in words.
    """

    seconds: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    summary: str


def bracket_spark(history: Sequence[BracketEvent], spent: float) -> Spark | None:
    """The bracket of one query until it ended after `spent` seconds; `None` without a step."""
    if not history:
        return None
    times = [max(event.seconds, _FIRST_SECONDS) for event in history]
    last = history[-1]
    summary = (
        f"From {seconds(times[0])} to {seconds(spent)} the bracket went from "
        f"[{number(history[0].lower)}, {number(history[0].upper)}] to "
        f"[{number(last.lower)}, {number(last.upper)}]."
    )
    return Spark(
        seconds=(*times, max(spent, times[-1])),
        lower=tuple(event.lower for event in history),
        upper=tuple(event.upper for event in history),
        summary=summary,
    )


def draw_spark(spark: Spark) -> Markup:
    """An `<svg>` whose colours are the page's class names; no text but the time axis's ends."""
    ends = [v for v in (*spark.lower, *spark.upper, 0.0) if math.isfinite(v)]
    low, high = min(ends), max(ends)
    room = (high - low) or 1.0
    first, last = spark.seconds[0], spark.seconds[-1]
    log = last > _LOG_FROM * first

    def across(value: float) -> float:
        if last == first:
            return _LEFT
        share = (
            math.log(value / first) / math.log(last / first)
            if log
            else (value - first) / (last - first)
        )
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        inside = min(max(value, low), high)
        return _HEIGHT - _BOTTOM - (inside - low) / room * (_HEIGHT - _TOP - _BOTTOM)

    places = [across(value) for value in spark.seconds]
    lower = _steps(places, [up(v) for v in spark.lower])
    upper = _steps(places, [up(v) for v in spark.upper])
    band = " ".join((upper, *reversed(lower.split())))
    base = _HEIGHT - _BOTTOM
    start, end = escape(seconds(first)), escape(seconds(last))
    return Markup(
        f'<svg class="spark" role="img" aria-label="{escape(spark.summary)}" '
        f'viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}">'
        f'<line class="stroke-grid" x1="0" y1="{base:g}" x2="{_WIDTH:g}" y2="{base:g}"/>'
        f'<polygon class="fill-unknown" points="{band}"/>'
        f'<polyline class="stroke-falsified" points="{upper}"/>'
        f'<polyline class="stroke-verified" points="{lower}"/>'
        f'<text class="fill-muted" x="{_LEFT:g}" y="{_HEIGHT - 5:g}">{start}</text>'
        f'<text class="fill-muted end" x="{_WIDTH - _RIGHT:g}" y="{_HEIGHT - 5:g}">{end}</text>'
        "</svg>"
    )


def _steps(places: Sequence[float], heights: Sequence[float]) -> str:
    """Corners of a line that holds each height until the next place."""
    return " ".join(
        f"{places[i + k]:.1f},{height:.1f}" for i, height in enumerate(heights) for k in (0, 1)
    )
