"""BaB-Attack where attacks came near a counterexample; elsewhere the time is left to proofs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch

from closegap.attacks.activation.region import piecewise_linear
from closegap.core.budget import Budget
from closegap.strategy.engines.bab_attack import BabAttackEngine
from closegap.strategy.session import Session

__all__ = ["NearAttackEngine"]

_NAME = "near-attack"


@dataclass(frozen=True)
class NearAttackEngine:
    """A turn of BaB-Attack, while the least margin attained is a small part of the clean one.

    A margin that shrank to a few percent of where it began is often that of a region that can be
    broken; margins of robust regions rarely come so near. Another turn follows, with other random
    numbers, only where the margin has shrunk again since the last one began, whoever did it.

    Attributes:
        attack: whose turn it is.
        near: of the margin at the reference point, so much is near.
        share: of the time that is left.
        shrunk: of the margin when the last turn began, at most so much calls for another.
    """

    attack: BabAttackEngine = field(default_factory=BabAttackEngine)
    near: float = 0.03
    share: float = 0.25
    shrunk: float = 0.5

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        if not self._is_due(session):
            return
        turn, _ = _last(session)
        session.marks[_NAME] = turn + 1, session.bracket.upper
        spend = budget.within(self.share * budget.remaining)
        self.attack.run(session, replace(spend, seed=budget.seed + int(turn)))

    def _is_due(self, session: Session) -> bool:
        """Whether the margin is near, and has shrunk since the last turn began."""
        upper = session.bracket.upper
        if not piecewise_linear(session.query) or not math.isfinite(upper):
            return False
        last = _last(session)[1]
        return upper <= self.shrunk * last and upper <= self.near * _reference_margin(session)


def _last(session: Session) -> tuple[float, float]:
    """Turns so far, and the margin when the last of them began."""
    turns, margin = session.marks.get(_NAME, (0, math.inf))
    return turns, margin


def _reference_margin(session: Session) -> float:
    """The property's margin at the reference point, in float64 without its rounding."""
    network, query = session.linear.exact, session.query
    point = query.reference[None]
    with torch.no_grad():
        outputs = network(network.tensor(point)).cpu().numpy()
    return float(query.prop.margins(outputs)[0])
