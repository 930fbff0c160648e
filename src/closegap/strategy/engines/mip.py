"""Mixed-integer programming: proves or breaks one clause after the other."""

from __future__ import annotations

from dataclasses import dataclass, field

from closegap.core.budget import Budget
from closegap.core.verdict import Reason
from closegap.encode import Bounds
from closegap.mip.model import Status
from closegap.strategy.session import Session
from closegap.verify.mip import MipOptions, MipVerifier

__all__ = ["MipEngine", "flat_bounds"]


@dataclass(frozen=True)
class MipEngine:
    """Every open clause as a program with the tightest bounds known."""

    options: MipOptions = field(default_factory=MipOptions)

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        if session.bounds is None:
            session.learn_bounds(session.linear.activations(budget))
        best = session.pool.best(1)
        outcomes = MipVerifier(self.options).bound_clauses(
            session.query,
            flat_bounds(session),
            session.clause_lower,
            budget,
            start_of=lambda clause: best[0].point if best else None,
            on_candidate=lambda point: session.offer(point[None], "mip"),
            interrupted=lambda: session.decided,
        )
        for outcome in outcomes:
            session.prove_clause(outcome.clause, outcome.lower, "mip")
            session.count(mip_nodes=outcome.nodes)
            if outcome.status is Status.NODES:
                session.limit = Reason.NODES
            if outcome.status is Status.FAILED:
                session.note(f"mip: {outcome.detail}")


def flat_bounds(session: Session) -> Bounds:
    """The session's activation bounds as flat arrays; there must be some."""
    assert session.bounds is not None
    return session.bounds.flat()
