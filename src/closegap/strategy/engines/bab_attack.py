"""BaB-Attack as an engine: it offers what it finds, and grows the tree of branch and bound."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from closegap.attacks.activation.bab_attack.attack import BabAttack, BabAttackOptions, Proofs
from closegap.attacks.activation.region import piecewise_linear
from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.specs.query import Query
from closegap.strategy.session import Session
from closegap.strategy.shared_tree import held_tree, plant
from closegap.verify.bab.shared import SharedTree

__all__ = ["BabAttackEngine"]

#: Candidates of the pool that the attack begins with.
_STARTS = 32


@dataclass(frozen=True)
class BabAttackEngine:
    """Neighbourhoods, dives and a beam around the pool's candidates.

    The beam splits open domains of the session's tree, those that branch and bound left too; what
    it does not follow stays open there for the turns of either.

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
            session.prove_tree(clause, lower, "bab-attack")

        if session.bounds is None:
            session.learn_bounds(session.linear.activations(budget))
        held, bounds = held_tree(session), session.bounds
        if held is not None and held.query is session.query:
            bounds = held.shared.bounds  # the tree's units are numbered by these
        spend = budget.within(self.share * budget.remaining)
        outcome = BabAttack(self.options).attack_query(
            session.query,
            spend,
            bounds,
            [candidate.point for candidate in session.pool.best(_STARTS)],
            lambda point: session.offer(point[None], "bab-attack"),
            Proofs(
                tuple(int(clause) for clause in session.open_clauses),
                proved,
                lambda query, known: _shared(session, query, known, spend),
            ),
        )
        session.offer(outcome.points, "bab-attack")
        for text in outcome.notes:
            session.note(f"bab-attack: {text}")
        held = held_tree(session)
        if held is not None:
            held.tally.tell(session, "bab", held.shared.tree.accounting(), held.tally.seconds)


def _shared(
    session: Session, query: Query, bounds: NetworkBounds, budget: Budget
) -> SharedTree | None:
    """The session's tree, planted on the attack's query and bounds if there is none."""
    held = held_tree(session)
    if held is None and bounds.complete:
        clauses = np.sort(session.open_clauses)
        held = plant(session, query, bounds, clauses, budget) if len(clauses) else None
    return None if held is None else held.shared
