"""EAD: elastic-net attacks by iterative shrinkage and thresholding (Chen et al., 2018).

Several of its weights are searched with side by side (see `weighting`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.lanes import Best, Lanes, Seen, evaluate, margins, several
from closegap.attacks.minimal.weighting import Weighting

__all__ = ["EADSearch", "EADState", "ead"]


@dataclass(frozen=True, eq=False)
class EADState:
    """Where the lanes are.

    Attributes:
        wide: the lanes, once for each weight.
        points: candidates, to be evaluated next.
        ahead: the points with momentum, where the gradient is taken.
        weighting: of the attack's loss.
        taken: steps so far.
    """

    wide: Lanes
    points: Float[Tensor, "K D"]
    ahead: Float[Tensor, "K D"]
    weighting: Weighting
    taken: int


@dataclass(frozen=True)
class EADSearch:
    """Minimise `c * max(margin, 0) + ||d||_2^2 + beta ||d||_1` by FISTA; binary search over c.

    Of all broken points the one of least l1 distance is kept (the paper's l1 decision rule).

    Attributes:
        rounds: gradient steps for one c.
        searches: values of c.
        beta: weight of the l1 norm, and the threshold of the shrinkage.
        step_size: of the first step; later ones fall with the root of what is left.
        first_weight: the first c.

    Source: Chen, Sharma, Zhang, Yi, Hsieh, EAD: Elastic-Net Attacks to Deep Neural Networks via
        Adversarial Examples, AAAI 2018, algorithm 1.
    """

    name: str = "ead"
    norm: float = 1.0
    rounds: int = 1000
    searches: int = 9
    beta: float = 1 / 1000
    step_size: float = 0.01
    first_weight: float = 1 / 1000

    @property
    def steps(self) -> int:
        """Of all values of c that are not side by side, at most."""
        return self.rounds * Weighting.rounds(self.searches)

    def init(self, lanes: Lanes, random: torch.Generator) -> EADState:
        """The starts."""
        weighting = Weighting.of(self.first_weight, lanes.slack, self.searches)
        wide = several(lanes, weighting.several)
        return EADState(wide, wide.starts, wide.starts, weighting, 0)

    def look(self, lanes: Lanes, state: EADState) -> Seen:
        """Margins at the points, the gradient ahead of them."""
        ahead = evaluate(state.wide, state.ahead)
        return Seen(state.points, margins(state.wide, state.points), ahead.losses, ahead.gradient)

    def step(self, lanes: Lanes, state: EADState, seen: Seen, best: Best) -> EADState | None:
        """One step of FISTA, or the next values of c."""
        wide = state.wide
        weighting = state.weighting.seen(seen.margins < -wide.slack)
        taken = state.taken + 1
        if taken % self.rounds == 0:
            later = weighting.next()
            return None if later is None else EADState(wide, wide.starts, wide.starts, later, taken)
        place = state.taken % self.rounds
        length = self.step_size * (1 - place / self.rounds) ** 0.5
        active = seen.losses > -2 * wide.slack
        push = torch.where(active, weighting.weights.flatten(), 0.0)[:, None] * seen.gradient
        slope = push + 2 * (state.ahead - wide.images)
        offset = state.ahead - length * slope - wide.images
        shrunk = torch.nn.functional.softshrink(offset, self.beta)
        points = (wide.images + shrunk).clamp(0.0, 1.0)
        ahead = points + place / (place + 3) * (points - state.points)
        return EADState(wide, points, ahead, weighting, taken)


def ead(options: AttackOptions, norm: float) -> EADSearch:
    """With so many steps for each weight."""
    return EADSearch(rounds=options.steps or EADSearch.rounds)
