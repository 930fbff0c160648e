"""BaB-Attack as an engine: it offers what it finds, and reports what its tree proves."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from closegap.attacks.activation.bab_attack.attack import BabAttack, BabAttackOptions, Proofs
from closegap.attacks.activation.region import piecewise_linear
from closegap.core.budget import Budget
from closegap.strategy.session import Session

__all__ = ["BabAttackEngine"]

#: Candidates of the pool that the attack begins with.
_STARTS = 32
#: A tree that closed says "positive" without saying how much.
_PROVED = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class BabAttackEngine:
    """Neighbourhoods, dives and a beam around the pool's candidates.

    Attributes:
        options: of the attack.
        share: of the time that is left.
    """

    options: BabAttackOptions = field(default_factory=BabAttackOptions)
    share: float = 1.0

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        if not piecewise_linear(session.query) or not len(session.open_clauses):
            return

        def proved(clause: int, lower: float) -> None:
            session.prove_clause(clause, float(min(lower, _PROVED)), "bab-attack")

        if session.bounds is None:
            session.learn_bounds(session.linear.activations(budget))
        outcome = BabAttack(self.options).attack_query(
            session.query,
            budget.within(self.share * budget.remaining),
            session.bounds,
            [candidate.point for candidate in session.pool.best(_STARTS)],
            lambda point: session.offer(point[None], "bab-attack"),
            Proofs(tuple(int(clause) for clause in session.open_clauses), proved),
        )
        session.offer(outcome.points, "bab-attack")
