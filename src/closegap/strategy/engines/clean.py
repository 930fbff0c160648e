"""The clean check: is the property broken at the point the question started from?"""

from __future__ import annotations

from closegap.core.budget import Budget
from closegap.strategy.session import Session

__all__ = ["CleanCheck"]


class CleanCheck:
    """Replays the clean input, or the middle of the region where there is none."""

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        session.offer(session.query.reference[None], "clean")
