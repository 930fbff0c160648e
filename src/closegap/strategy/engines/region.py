"""Attacks between activation cells: linear programs in cells, walks through their walls."""

from __future__ import annotations

from dataclasses import dataclass, field

from closegap.attacks.activation.lippa import LippaAttack
from closegap.attacks.activation.region import piecewise_linear
from closegap.attacks.activation.region_walk import RegionWalkAttack
from closegap.core.budget import Budget
from closegap.strategy.session import Session

__all__ = ["LippaEngine", "RegionWalkEngine"]

#: Candidates of the pool that a walk starts from.
_STARTS = 4


@dataclass(frozen=True)
class RegionWalkEngine:
    """Walks from the pool's best candidates, then from starts of its own.

    Attributes:
        attack: the walk.
        share: of the time that is left, where proofs can use the rest.
        most: seconds, likewise.
    """

    attack: RegionWalkAttack = field(default_factory=RegionWalkAttack)
    share: float = 0.05
    most: float = 3.0

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        if not piecewise_linear(session.query):
            return
        spend = budget.within(min(self.most, self.share * budget.remaining))
        starts = [candidate.point for candidate in session.pool.best(_STARTS)]
        outcome = self.attack.attack_query(
            session.query,
            spend,
            session.bounds,
            starts,
            lambda point: session.offer(point[None], "region-walk"),
        )
        session.offer(outcome.points, "region-walk")


@dataclass(frozen=True)
class LippaEngine:
    """LiPPA on every clause."""

    attack: LippaAttack = field(default_factory=LippaAttack)

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        outcome = self.attack.attack_query(
            session.query,
            budget,
            session.bounds,
            lambda point: session.offer(point[None], "lippa"),
        )
        session.offer(outcome.points, "lippa")
