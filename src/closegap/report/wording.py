"""Numbers and names as people read them."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath

from closegap.store.records import RunHeader

__all__ = [
    "MISSING",
    "class_name",
    "count",
    "number",
    "percent",
    "percent_down",
    "percent_up",
    "plain",
    "radius",
    "seconds",
    "short_path",
    "signed",
]

#: Stands where there is nothing to show.
MISSING = "–"

#: Between a number and its unit, so that no line ends there.
_GLUE = "\N{NO-BREAK SPACE}"

#: Larger numbers are powers of ten.
_WRITTEN_OUT_BELOW = 1_000_000

_NORMS = {"inf": "ℓ∞", "1": "ℓ1", "2": "ℓ2"}

#: What neither HTML nor XML can hold: control characters, surrogates and the last two code points.
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def plain(text: str) -> str:
    """The text with every character that a page cannot hold replaced by U+FFFD."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)


def number(value: float, digits: int = 4) -> str:
    """A value to `digits` significant digits, with a true minus sign; infinities as symbols.

    Whole numbers of up to six digits are written out, not as powers of ten.
    """
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    written_out = 10.0**digits <= abs(value) < _WRITTEN_OUT_BELOW
    text = f"{value:.0f}" if written_out else f"{value:.{digits}g}"
    return text.replace("-", "−")


def signed(value: float, digits: int = 4) -> str:
    """As `number`, with a plus sign before positive values."""
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def seconds(value: float) -> str:
    """A duration with its units."""
    if not math.isfinite(value):
        return number(value)
    if value < 0.9995:
        return f"{value * 1000:.3g}{_GLUE}ms"
    if value < 99.95:
        return f"{value:.3g}{_GLUE}s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{_GLUE}h {minutes:02d}{_GLUE}min"
    return f"{minutes}{_GLUE}min {rest:02d}{_GLUE}s"


def percent_down(part: int, whole: int) -> str:
    """The percentage to one decimal, rounded down, so that a lower end is never overstated."""
    return _percent(1000 * part // whole)


def percent_up(part: int, whole: int) -> str:
    """The percentage to one decimal, rounded up, so that an upper end is never understated."""
    return _percent(-(-1000 * part // whole))


def percent(part: int, whole: int) -> str:
    """The percentage, rounded to the nearest decimal."""
    return _percent(round(1000 * part / whole))


def _percent(tenths: int) -> str:
    return f"{tenths // 10}.{tenths % 10}{_GLUE}%"


def count(many: int, one: str, more: str = "") -> str:
    """`1 image`, `2 images`; thousands are set apart."""
    word = one if many == 1 else (more or f"{one}s")
    return f"{many:,}".replace(",", _GLUE) + f"{_GLUE}{word}"


def radius(header: RunHeader) -> str:
    """`ℓ∞, ε = 0.1`, or nothing for a list of properties."""
    if header.eps is None:
        return ""
    norm = _NORMS.get(header.norm, header.norm)
    return f"{norm}, ε = {number(header.eps)}" if norm else f"ε = {number(header.eps)}"


def class_name(label: int | str | None, header: RunHeader) -> str:
    """A class's name beside its number, where the run has names; `MISSING` for none."""
    if label is None or label == "":
        return MISSING
    text = str(label)
    if text.isascii() and text.isdigit() and int(text) < len(header.class_names):
        name = header.class_names[int(text)]
        return text if name == text else f"{text} {name}"
    return text


def short_path(path: str) -> str:
    """The last part of a path, for headings."""
    return PurePosixPath(path.replace("\\", "/")).name or path
