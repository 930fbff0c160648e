"""Proofs by linear bounds with default slopes: CROWN."""

from __future__ import annotations

from dataclasses import dataclass

from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.strategy.session import Session

__all__ = ["Crown", "prove_open_rows"]


@dataclass(frozen=True)
class Crown:
    """Bounds every activation once, then the property's rows, with default slopes."""

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        bounds = session.linear.activations(budget, session.bounds)
        session.learn_bounds(bounds)
        prove_open_rows(session, budget, None, "crown")


def prove_open_rows(
    session: Session, budget: Budget, options: AscentOptions | None, engine: str
) -> None:
    """Bound the rows of open clauses with the bounds that are known; offer where they are least."""
    bounds, which = session.bounds, session.open_rows
    # One pass of a large network takes seconds, and bounds that time cut short prove little.
    if bounds is None or not len(which) or budget.expired:
        return
    found = session.linear.rows(bounds, budget, which, options)
    session.prove_rows(which, found.lower, engine)
    if not session.decided:
        session.offer(found.candidates, engine)
