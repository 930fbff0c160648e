"""What a session was told of a search that goes on turn by turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from closegap.search.tree import Accounting
from closegap.strategy.session import Session

__all__ = ["COUNTED", "Tally"]

#: Of a tree's nodes: all, and those that were closed, are open, were given up.
COUNTED = ("nodes", "leaves", "open", "stuck")


@dataclass(eq=False)
class Tally:
    """What was told so far: every turn adds what is new.

    Attributes:
        counts: nodes by what became of them.
        seconds: by part of the search.
    """

    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def tell(
        self, session: Session, engine: str, count: Accounting, seconds: Mapping[str, float]
    ) -> None:
        """Add to a session what a tree counts, and its seconds by part, beyond the last time."""
        numbers = count.created, count.closed, count.open, count.stuck
        counts = dict(zip(COUNTED, numbers, strict=True))
        session.count(**{name: n - self.counts.get(name, 0) for name, n in counts.items()})
        spent = {part: s - self.seconds.get(part, 0.0) for part, s in seconds.items()}
        session.time_parts(engine, spent)
        session.deepest(count.depth)
        self.counts, self.seconds = counts, dict(seconds)
