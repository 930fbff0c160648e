"""The attack of Carlini and Wagner in l2, with binary search over its weight (2017).

Several of its weights are searched with side by side (see `weighting`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.adam import Moments
from closegap.attacks.minimal.lanes import Best, Lanes, Seen, evaluate, several
from closegap.attacks.minimal.weighting import Weighting
from closegap.core.numerics import TANH_RIM

__all__ = ["CarliniWagnerSearch", "CarliniWagnerState", "carlini_wagner"]


@dataclass(frozen=True, eq=False)
class CarliniWagnerState:
    """Where the lanes are.

    Attributes:
        wide: the lanes, once for each weight.
        free: w, where the candidate is `(tanh(w) + 1) / 2`.
        weighting: of the attack's loss.
        moments: Adam's.
        taken: steps so far.
    """

    wide: Lanes
    free: Float[Tensor, "K D"]
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
        """Of all values of c that are not side by side, at most."""
        return self.rounds * Weighting.rounds(self.searches)

    def init(self, lanes: Lanes, random: torch.Generator) -> CarliniWagnerState:
        """The starts, moved off the ends of the box."""
        weighting = Weighting.of(self.first_weight, lanes.slack, self.searches)
        return self._begin(several(lanes, weighting.several), weighting, 0)

    def _begin(self, wide: Lanes, weighting: Weighting, taken: int) -> CarliniWagnerState:
        free = torch.atanh((2 * wide.starts - 1) * (1 - TANH_RIM))
        return CarliniWagnerState(wide, free, weighting, Moments.zero(free), taken)

    def look(self, lanes: Lanes, state: CarliniWagnerState) -> Seen:
        """At the points of w."""
        return evaluate(state.wide, ((state.free.tanh() + 1) / 2).clamp(0.0, 1.0))

    def step(
        self, lanes: Lanes, state: CarliniWagnerState, seen: Seen, best: Best
    ) -> CarliniWagnerState | None:
        """One step of Adam, or the next values of c."""
        wide = state.wide
        weighting = state.weighting.seen(seen.margins < -wide.slack)
        taken = state.taken + 1
        if taken % self.rounds == 0:
            later = weighting.next()
            return None if later is None else self._begin(wide, later, taken)
        active = seen.losses > -2 * wide.slack
        push = torch.where(active, weighting.weights.flatten(), 0.0)[:, None] * seen.gradient
        slope = push + 2 * (seen.points - wide.images)
        inner = (1 - state.free.tanh().square()) / 2
        move, moments = state.moments.step(slope * inner)
        free = state.free - self.step_size * move
        return CarliniWagnerState(wide, free, weighting, moments, taken)


def carlini_wagner(options: AttackOptions, norm: float) -> CarliniWagnerSearch:
    """With so many steps for each weight."""
    return CarliniWagnerSearch(rounds=options.steps or CarliniWagnerSearch.rounds)
