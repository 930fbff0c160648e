"""The attack of Carlini and Wagner in l2, with binary search over its weight (2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.adam import Moments
from closegap.attacks.minimal.lanes import Best, Lanes, Seen, evaluate
from closegap.attacks.minimal.weighting import Weighting
from closegap.core.numerics import TANH_RIM

__all__ = ["CarliniWagnerSearch", "CarliniWagnerState", "carlini_wagner"]


@dataclass(frozen=True, eq=False)
class CarliniWagnerState:
    """Where the lanes are.

    Attributes:
        free: w, where the candidate is `(tanh(w) + 1) / 2`.
        weighting: of the attack's loss.
        moments: Adam's.
        taken: steps so far.
    """

    free: Float[Tensor, "L D"]
    weighting: Weighting
    moments: Moments
    taken: int


@dataclass(frozen=True)
class CarliniWagnerSearch:
    """Minimise `||d||_2^2 + c * max(margin, 0)` over w by Adam; binary search over c.

    Attributes:
        rounds: gradient steps for one c.
        searches: values of c.
        step_size: Adam's.
        first_weight: the first c.

    Source: Carlini and Wagner, Towards Evaluating the Robustness of Neural Networks, 2017, section
        VI.A; their program takes up to 10000 steps for one c and stops early.
    """

    name: str = "cw"
    norm: float = 2.0
    rounds: int = 1000
    searches: int = 9
    step_size: float = 0.01
    first_weight: float = 1 / 1000

    @property
    def steps(self) -> int:
        """Of all values of c."""
        return self.rounds * self.searches

    def init(self, lanes: Lanes, random: torch.Generator) -> CarliniWagnerState:
        """The starts, moved off the ends of the box."""
        return self._begin(lanes, Weighting.of(self.first_weight, lanes.slack), 0)

    def _begin(self, lanes: Lanes, weighting: Weighting, taken: int) -> CarliniWagnerState:
        free = torch.atanh((2 * lanes.starts - 1) * (1 - TANH_RIM))
        return CarliniWagnerState(free, weighting, Moments.zero(free), taken)

    def look(self, lanes: Lanes, state: CarliniWagnerState) -> Seen:
        """At the points of w."""
        return evaluate(lanes, ((state.free.tanh() + 1) / 2).clamp(0.0, 1.0))

    def step(
        self, lanes: Lanes, state: CarliniWagnerState, seen: Seen, best: Best
    ) -> CarliniWagnerState:
        """One step of Adam, or the next c."""
        weighting = state.weighting.seen(seen.margins < -lanes.slack)
        taken = state.taken + 1
        if taken % self.rounds == 0:
            return self._begin(lanes, weighting.next(), taken)
        active = seen.losses > -2 * lanes.slack
        push = torch.where(active, weighting.weight, 0.0)[:, None] * seen.gradient
        slope = push + 2 * (seen.points - lanes.images)
        inner = (1 - state.free.tanh().square()) / 2
        move, moments = state.moments.step(slope * inner)
        return CarliniWagnerState(state.free - self.step_size * move, weighting, moments, taken)


def carlini_wagner(options: AttackOptions, norm: float) -> CarliniWagnerSearch:
    """With so many steps for each weight."""
    return CarliniWagnerSearch(rounds=options.steps or CarliniWagnerSearch.rounds)
