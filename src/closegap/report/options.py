"""What a report shows, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from closegap.core.errors import OptionError

__all__ = ["ReportOptions"]


@dataclass(frozen=True)
class ReportOptions:
    """Limits that keep the file small enough to open; whatever they leave out is said on the page.

    Attributes:
        gallery: how many falsified queries are shown with pictures.
        gallery_bytes: no further pictures once those before take this many bytes in the file.
        history: how many of the last bracket events of each query are kept.

    Raises:
        OptionError: a limit is negative.
    """

    gallery: int = 200
    gallery_bytes: int = 24 * 1024**2
    history: int = 60

    def __post_init__(self) -> None:
        for name in ("gallery", "gallery_bytes", "history"):
            if getattr(self, name) < 0:
                raise OptionError(f"report option {name} is {getattr(self, name)}; it must be >= 0")
