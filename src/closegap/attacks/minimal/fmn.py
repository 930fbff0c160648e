"""FMN: descend the margin in a ball whose radius follows the boundary (Pintor et al., 2021)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.lanes import Best, Lanes, Seen, evaluate, in_ball, sizes
from closegap.core.numerics import TINY

__all__ = ["FMNSearch", "FMNState", "fmn"]


@dataclass(frozen=True, eq=False)
class FMNState:
    """Where the lanes are.

    Attributes:
        points: to be evaluated next.
        radius: of the ball.
        taken: steps so far.
    """

    points: Float[Tensor, "L D"]
    radius: Float[Tensor, "L"]
    taken: int


@dataclass(frozen=True)
class FMNSearch:
    """Steps down the margin, each projected onto a ball around the image, cut to [0, 1].

    Until a broken point is known the radius is where the margin's plane is met; then it shrinks by
    a share on broken points and grows by it on others. Steps and shares fall by a cosine.

    Attributes:
        norm: 0, 1, 2 or infinity.
        steps: of gradient.
        step_size: Euclidean length of the first step (alpha).
        last_step: of the last one.
        share: of the radius, its first change (gamma).
        last_share: its last change.

    Source: Pintor, Roli, Brendel, Biggio, Fast Minimum-norm Adversarial Attacks through Adaptive
        Norm Constraints, NeurIPS 2021, algorithm 1.
    """

    name: str = "fmn"
    norm: float = math.inf
    steps: int = 1000
    step_size: float = 1.0
    last_step: float = 0.01 / 1000
    share: float = 0.05
    last_share: float = 0.1 / 1000

    def init(self, lanes: Lanes, random: torch.Generator) -> FMNState:
        """The starts, in balls without limit."""
        return FMNState(lanes.starts, torch.full_like(lanes.slack, math.inf), 0)

    def look(self, lanes: Lanes, state: FMNState) -> Seen:
        """At the points."""
        return evaluate(lanes, state.points)

    def step(self, lanes: Lanes, state: FMNState, seen: Seen, best: Best) -> FMNState:
        """The radius, the step, the projection."""
        fall = (1 + math.cos(math.pi * state.taken / self.steps)) / 2
        share = self.last_share + (self.share - self.last_share) * fall
        radius = self._radius(lanes, state, seen, best, share)
        length = self.last_step + (self.step_size - self.last_step) * fall
        size = seen.gradient.norm(dim=1, keepdim=True).clamp(min=TINY)
        points = in_ball(lanes, state.points - length * seen.gradient / size, radius, self.norm)
        return FMNState(points, radius, state.taken + 1)

    def _radius(
        self, lanes: Lanes, state: FMNState, seen: Seen, best: Best, share: float
    ) -> Float[Tensor, "L"]:
        broken = seen.margins < -lanes.slack
        away = sizes(lanes, state.points - lanes.images, self.norm)
        if self.norm == 0:
            wider = torch.maximum(state.radius + 1, (state.radius * (1 + share)).floor())
            nearer = torch.minimum(state.radius - 1, (state.radius * (1 - share)).floor())
            first = away + 1
        else:
            dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[self.norm]
            slope = torch.linalg.vector_norm(seen.gradient, ord=dual, dim=1)
            wider, nearer = state.radius * (1 + share), state.radius * (1 - share)
            # Beyond the plane: on it, an affine network would be met and never broken.
            missing = seen.losses.clamp(min=0.0) + 2 * lanes.slack
            first = (away + missing / slope.clamp(min=TINY)) * (1 + share)
        inward = torch.minimum(nearer, best.distances).clamp(min=float(self.norm == 0))
        outward = torch.where(best.found, wider, first)
        return torch.where(broken, inward, outward).nan_to_num(nan=math.inf)


def fmn(options: AttackOptions, norm: float) -> FMNSearch:
    """With so many steps, in this norm."""
    return FMNSearch(norm=norm, steps=options.steps or FMNSearch.steps)
