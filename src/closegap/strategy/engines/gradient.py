"""Gradient attacks: quick stages for what is easy to break, stronger ones for the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from closegap.attacks.cascade import quick_stages, run_stages, thorough_stages
from closegap.core.budget import Budget
from closegap.graph.network import Network
from closegap.graph.ops import Conv, Sign
from closegap.runtime.cache import compiled
from closegap.strategy.session import Session

__all__ = ["QuickAttack", "StrongAttack", "has_signs_of_images"]


def has_signs_of_images(network: Network) -> bool:
    """Whether signs and convolutions meet: linear bounds of such networks are slow and loose."""
    return any(isinstance(node.op, Conv) for node in network.nodes) and _has_signs(network)


def _has_signs(network: Network) -> bool:
    return any(isinstance(node.op, Sign) for node in network.nodes)


@dataclass(frozen=True)
class QuickAttack:
    """A fraction of a second of output-diversified and multi-targeted PGD."""

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        network = compiled(session.query.network, torch.float32)
        outcome = run_stages(network, session.query, quick_stages(session.query), budget)
        session.offer(outcome.points, "pgd")


@dataclass(frozen=True)
class StrongAttack:
    """Rounds of stronger stages.

    Attributes:
        share: of the time that is left, where proofs can use the rest.
        most: seconds, likewise.
        sign_share: of the time that is left for networks with signs, where proofs are weak.
        image_least: seconds at least where these are convolutional: the attack goes before all
            proofs there, and in a few seconds none of them ends.
    """

    share: float = 0.05
    most: float = 3.0
    sign_share: float = 0.5
    image_least: float = 6.0

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        seconds = min(self.most, self.share * budget.remaining)
        if _has_signs(session.query.network):
            seconds = self.sign_share * budget.remaining
        if has_signs_of_images(session.query.network):
            seconds = max(seconds, self.image_least)
        spend = budget.within(seconds)
        network = compiled(session.query.network, torch.float32)
        round_ = 0
        while not (session.decided or spend.expired):
            stages = thorough_stages(session.query)
            seeded = replace(spend, seed=spend.seed + round_)
            outcome = run_stages(network, session.query, stages, seeded)
            session.offer(outcome.points, "strong-pgd")
            round_ += len(stages)
