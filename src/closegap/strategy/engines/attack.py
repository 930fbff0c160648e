"""Any registered attack, by its name."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from closegap.attacks.activation.query_attack import run_attack
from closegap.attacks.registry import make_attack
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.runtime.cache import compiled
from closegap.strategy.session import Session

__all__ = ["AttackEngine"]


@dataclass(frozen=True)
class AttackEngine:
    """One attack with its own defaults; to feed from, and to compare with.

    Attributes:
        method: as `closegap attack --method` names it.

    Raises:
        OptionError: no attack has this name.
    """

    method: str = "autoattack"

    def __post_init__(self) -> None:
        make_attack(self.method)

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`.

        Raises:
            OptionError: it is not for such a property.
        """
        attack = make_attack(self.method)
        network = compiled(session.query.network, torch.float32)
        try:
            (outcome,) = run_attack(network, [session.query], attack, budget)
        except OptionError as error:
            raise OptionError(f"attack.method={self.method}: {error}") from None
        session.offer(outcome.points, self.method)
        for text in outcome.notes:
            session.note(f"{self.method}: {text}")
