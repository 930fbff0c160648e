"""Bounds under the assumption that a clause is broken, one clause after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from closegap.core.budget import Budget
from closegap.strategy.session import Session
from closegap.verify.cutoff import CutoffOptions, CutoffSearch

__all__ = ["CutoffEngine"]

#: A contradiction says "positive" without saying how much.
_PROVED = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class CutoffEngine:
    """Tightens every layer for each open clause, the one closest to a proof first.

    What is left open keeps its tightened bounds in the session, for branch and bound.

    Attributes:
        options: how hard to try one clause.
        share: of the time that is left, for all clauses together.
    """

    options: CutoffOptions = field(default_factory=CutoffOptions)
    share: float = 0.6

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        known = session.bounds
        if known is None:
            known = session.linear.activations(budget)
            session.learn_bounds(known)
        spend = budget.within(self.share * budget.remaining)
        clauses = session.open_clauses
        for place, clause in enumerate(clauses):
            if session.decided or spend.expired:
                return
            search = CutoffSearch(session.query, int(clause), known, self.options)
            search.run(spend.within(spend.remaining / (len(clauses) - place)))
            if search.refuted:
                session.prove_clause(int(clause), _PROVED, "cutoff")
            else:
                session.clause_bounds[int(clause)] = search.bounds
