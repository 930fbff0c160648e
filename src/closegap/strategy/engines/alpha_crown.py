"""Proofs by linear bounds with slopes that are climbed on: alpha-CROWN."""

from __future__ import annotations

from dataclasses import dataclass, field

from closegap.core.budget import Budget
from closegap.strategy.engines.crown import prove_open_rows
from closegap.strategy.session import Session
from closegap.verify.incomplete import AlphaOptions
from closegap.verify.reduction import climb_activations

__all__ = ["AlphaCrown"]


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
