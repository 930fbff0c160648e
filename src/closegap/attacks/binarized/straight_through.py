"""Gradient attacks through signs: iterated FGSM and PGD with straight-through derivatives.

The forward pass always has the true signs; only the derivative is that of a hard tanh, in several
widths, for no single one is best on every network. Sources: Hubara et al., Binarized Neural
Networks (2016); Khalil, Gupta, Dilkina, Combinatorial Attacks on Binarized Neural Networks (2019).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from closegap.attacks.activation.harvest import Harvest, harvested
from closegap.attacks.cascade import SIGN_WIDTHS, Stage, run_stages
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.starts import CenterStart, UniformStart
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.runtime.cache import compiled
from closegap.specs.query import Query

__all__ = [
    "StraightThroughAttack",
    "StraightThroughOptions",
    "short_runs",
    "straight_through_attack",
]


@dataclass(frozen=True)
class StraightThroughOptions:
    """Sizes of the search.

    Attributes:
        steps: of every run.
        restarts: of PGD, for each width.
        step_size: of the first step, as a share of the region's half-width.
        rounds: how often all widths are gone through.
        widths: of the surrogate, see `runtime.surrogate`.
    """

    steps: int = 100
    restarts: int = 4
    step_size: float = 0.25
    rounds: int = 2
    widths: tuple[float, ...] = SIGN_WIDTHS


@dataclass(frozen=True)
class StraightThroughAttack:
    """Iterated FGSM from the center, then PGD from random points, width by width."""

    options: StraightThroughOptions = field(default_factory=StraightThroughOptions)
    name: str = "ste-pgd"

    def attack_query(self, query: Query, budget: Budget) -> AttackOutcome:
        """See `QueryAttack`; works on any network, but only signs need it.

        Raises:
            AttackInterrupted: Ctrl-C, with what was found until then.
        """

        def search(harvest: Harvest) -> None:
            network = compiled(query.network, torch.float32)
            rounds = self.options.rounds
            harvest.add(run_stages(network, query, self.stages(), budget, rounds=rounds))

        return harvested(query, self.name, budget, search)

    def stages(self) -> list[Stage]:
        """The runs of one round, in order."""
        options = self.options
        fgsm = Descent(
            "iterated-fgsm",
            start=CenterStart(),
            steps=options.steps,
            step_size=options.step_size,
        )
        pgd = replace(fgsm, name="pgd", start=UniformStart(), restarts=options.restarts, targets=1)
        return [Stage(run, width) for run in (fgsm, pgd) for width in options.widths]


def short_runs() -> StraightThroughOptions:
    """Runs that other attacks start from."""
    return StraightThroughOptions(steps=30, restarts=2, rounds=1)


def straight_through_attack(options: AttackOptions) -> StraightThroughAttack:
    """The attack with a user's sizes."""
    sizes = StraightThroughOptions()
    return StraightThroughAttack(
        StraightThroughOptions(
            steps=options.steps or sizes.steps,
            restarts=options.restarts or sizes.restarts,
            step_size=options.step_size or sizes.step_size,
        )
    )
