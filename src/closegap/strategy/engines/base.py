"""What an engine is to the strategy."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from closegap.core.budget import Budget
from closegap.strategy.session import Session

__all__ = ["Engine"]


@runtime_checkable
class Engine(Protocol):
    """Anything that can improve a bracket under a budget."""

    def run(self, session: Session, budget: Budget) -> None:
        """Work until the session is decided, the budget ends, or there is nothing left to try.

        Points go to `session.offer`, proofs to `session.prove_rows` or `prove_clause`.
        """
