"""One picture of a card."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from closegap.report.png import data_uri

__all__ = ["Panel", "panel"]


@dataclass(frozen=True)
class Panel:
    """A picture in the page, with what stands under it and in place of it."""

    caption: str
    alt: str
    source: str
    width: int
    height: int


def panel(caption: str, alt: str, pixels: UInt8[np.ndarray, "height width channels"]) -> Panel:
    """A panel of an 8-bit picture."""
    return Panel(caption, alt, data_uri(pixels), pixels.shape[1], pixels.shape[0])
