"""Lines of text as pixels, by matplotlib and the font that it ships."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

__all__ = ["LINE", "Line", "lettered"]

#: Pixels from one line to the next, and of them the letters' size.
LINE, _SIZE = 15, 11
_DPI = 72.0  # so that points are pixels


@dataclass(frozen=True)
class Line:
    """A line of text.

    Attributes:
        text: what it says; cut off at the paper's end.
        left, top: pixels.
        strong: whether it is bold.
    """

    text: str
    left: int
    top: int
    strong: bool = False


def lettered(height: int, width: int, lines: Sequence[Line]) -> UInt8[np.ndarray, "height width 3"]:
    """White paper with dark text on it."""
    import matplotlib  # heavy: only when a sheet is drawn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Gg]lyph")
        matplotlib.rcdefaults()  # whatever the reader's matplotlibrc says
        canvas: Any = FigureCanvasAgg(Figure((width / _DPI, height / _DPI), dpi=_DPI))
        for line in lines:
            canvas.figure.text(
                line.left / width,
                1 - line.top / height,
                line.text,
                fontsize=_SIZE,
                fontweight="bold" if line.strong else "normal",
                color="#222222",
                verticalalignment="top",
                parse_math=False,
            )
        canvas.draw()
        return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:height, :width, :3]
