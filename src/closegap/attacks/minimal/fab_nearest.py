"""FAB without a radius: to the linearised boundary, drawn to the image (Croce and Hein, 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.hyperplane import least_in_box
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.lanes import Best, Lanes, Seen, evaluate, sizes
from closegap.core.numerics import TINY

__all__ = ["FABNearestSearch", "fab_nearest"]


@dataclass(frozen=True)
class FABNearestSearch:
    """From a point that is not broken a little beyond the margin's plane; from a broken one back.

    The way to the plane is mixed with the image's own way there, the more of it the nearer the
    point is to the plane. All displacements are the least inside [0, 1]^D.

    Attributes:
        norm: 1, 2 or infinity.
        steps: to the boundary or back.
        most_bias: greatest share of the image's own plane point (alpha_max).
        overshoot: how far beyond a plane to go (eta).
        pull: what is left of the displacement of a broken point (beta).

    Source: Croce and Hein, Minimally Distorted Adversarial Examples with a Fast Adaptive Boundary
        Attack, ICML 2020, algorithm 1.
    """

    name: str = "fab-nearest"
    norm: float = math.inf
    steps: int = 200
    most_bias: float = 0.1
    overshoot: float = 1.05
    pull: float = 0.9

    def init(self, lanes: Lanes, random: torch.Generator) -> Float[Tensor, "L D"]:
        """The starts."""
        return lanes.starts

    def look(self, lanes: Lanes, state: Float[Tensor, "L D"]) -> Seen:
        """At the points."""
        return evaluate(lanes, state)

    def step(
        self, lanes: Lanes, state: Float[Tensor, "L D"], seen: Seen, best: Best
    ) -> Float[Tensor, "L D"]:
        """To the boundary, or back."""
        offset = state - lanes.images
        gap = seen.losses.clamp(min=0.0) + 2 * lanes.slack
        whole = (gap - (seen.gradient * offset).sum(dim=1)).clamp(min=0.0)
        own = self._displacement(state, seen.gradient, gap)
        back = self._displacement(lanes.images, seen.gradient, whole)
        near, far = sizes(lanes, own, self.norm), sizes(lanes, back, self.norm)
        bias = (near / (near + far).clamp(min=TINY)).clamp(max=self.most_bias)[:, None]
        ahead = (1 - bias) * (offset + self.overshoot * own) + bias * self.overshoot * back
        broken = (seen.margins < -lanes.slack)[:, None]
        moved = torch.where(broken, self.pull * offset, ahead)
        return (lanes.images + torch.where(moved.isfinite(), moved, offset)).clamp(0.0, 1.0)

    def _displacement(
        self,
        points: Float[Tensor, "L D"],
        normal: Float[Tensor, "L D"],
        gap: Float[Tensor, "L"],
    ) -> Float[Tensor, "L D"]:
        """The least in the box by which `normal . x` falls by the gap."""
        room = torch.where(normal > 0, points, 1 - points)
        least = least_in_box(self.norm, normal.abs()[:, None], room[:, None], gap[:, None])[:, 0]
        return -normal.sign() * least


def fab_nearest(options: AttackOptions, norm: float) -> FABNearestSearch:
    """With so many steps, in this norm."""
    return FABNearestSearch(norm=norm, steps=options.steps or FABNearestSearch.steps)
