"""The clean check: is the property broken at the point the question started from?"""

from __future__ import annotations

from closegap.core.budget import Budget
from closegap.specs.region import bounding_box
from closegap.strategy.session import Session

__all__ = ["CleanCheck"]


class CleanCheck:
    """Replays the clean input, or the middle of the region where there is none."""

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        box = bounding_box(session.query.region)
        center = session.query.center
        point = (box.lower + box.upper) / 2 if center is None else center
        session.offer(point[None], "clean")
