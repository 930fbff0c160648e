"""Proofs by linear bounds: CROWN, then alpha-CROWN."""

from __future__ import annotations

from dataclasses import dataclass, field

from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.strategy.session import Session
from closegap.verify.incomplete import AlphaOptions
from closegap.verify.reduction import climb_activations

__all__ = ["AlphaCrown", "Crown", "prove_open_rows"]


@dataclass(frozen=True)
class Crown:
    """Bounds every activation once, then the property's rows, with default slopes."""

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        bounds = session.linear.activations(budget, session.bounds)
        session.learn_bounds(bounds)
        prove_open_rows(session, budget, None, "crown")


@dataclass(frozen=True)
class AlphaCrown:
    """Optimises the rows' slopes; where that is not enough, the inner neurons' slopes too.

    Attributes:
        options: how hard to try.
        inner_share: of the time that is left, for each climb on inner neurons: on large networks
            it takes minutes, and the engines after it get the rest.
    """

    options: AlphaOptions = field(default_factory=AlphaOptions)
    inner_share: float = 0.35

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        if session.bounds is None:
            session.learn_bounds(session.linear.activations(budget))
        prove_open_rows(session, budget, self.options.final, "alpha-crown")
        for _ in range(self.options.rounds):
            if session.decided or budget.expired or session.bounds is None:
                return
            spend = budget.within(self.inner_share * budget.remaining)
            inner = climb_activations(session.linear, session.bounds, spend, self.options.inner)
            session.learn_bounds(inner)
            prove_open_rows(session, budget, self.options.final, "alpha-crown")


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
