"""sigma-zero: gradient descent on a smooth count of the changed pixels (Cinà et al., 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.adam import Moments
from closegap.attacks.minimal.lanes import Best, Lanes, Seen, evaluate, pixel_peaks, pixel_sums
from closegap.core.numerics import TINY

__all__ = ["SigmaZeroSearch", "SigmaZeroState", "sigma_zero"]


@dataclass(frozen=True, eq=False)
class SigmaZeroState:
    """Where the lanes are.

    Attributes:
        points: to be evaluated next.
        threshold: pixels moved by less are put back.
        moments: Adam's.
        taken: steps so far.
    """

    points: Float[Tensor, "L D"]
    threshold: Float[Tensor, "L"]
    moments: Moments
    taken: int


@dataclass(frozen=True)
class SigmaZeroSearch:
    """Lower the margin and `sum s / (s + sigma)` over pixels, s the pixel's squared offset.

    The gradient is divided by its largest entry and followed by Adam with a cosine step length.
    Offsets below a threshold are put back to 0 in every step; the threshold rises on broken points
    and falls on others. Where channels make a pixel, the pixel is put back as one.

    Attributes:
        steps: of gradient.
        sigma: how sharply a moved pixel counts.
        step: the first length; the last is a tenth of it.
        threshold: the first.
        adapt: of the step length, how far the threshold moves.

    Source: Cinà, Villani, Pintor, Schönherr, Biggio, Pelillo, sigma-zero: Gradient-based
        Optimization of l0-norm Adversarial Examples, ICLR 2025, algorithm 1.
    """

    name: str = "sigma-zero"
    norm: float = 0.0
    steps: int = 1000
    sigma: float = 1 / 1000
    step_size: float = 1.0
    threshold: float = 0.3
    adapt: float = 0.01

    def init(self, lanes: Lanes, random: torch.Generator) -> SigmaZeroState:
        """The starts."""
        threshold = torch.full_like(lanes.slack, self.threshold)
        return SigmaZeroState(lanes.starts, threshold, Moments.zero(lanes.starts), 0)

    def look(self, lanes: Lanes, state: SigmaZeroState) -> Seen:
        """At the points."""
        return evaluate(lanes, state.points)

    def step(self, lanes: Lanes, state: SigmaZeroState, seen: Seen, best: Best) -> SigmaZeroState:
        """Adam, the box, the threshold."""
        offset = state.points - lanes.images
        squares = pixel_sums(lanes, offset.square())[:, lanes.pixel_of]
        smooth = 2 * offset * self.sigma / (squares + self.sigma).square() / offset.shape[1]
        broken = seen.margins < -lanes.slack
        slope = smooth + torch.where(broken[:, None], 0.0, seen.gradient)
        slope = slope / slope.abs().amax(dim=1, keepdim=True).clamp(min=TINY)
        share = 0.1 + 0.9 * (1 + math.cos(math.pi * state.taken / self.steps)) / 2
        move, moments = state.moments.step(slope)
        points = (state.points - self.step_size * share * move).clamp(0.0, 1.0)
        moved = self.adapt * self.step_size * share
        threshold = (state.threshold + torch.where(broken, moved, -moved)).clamp(0.0, 1.0)
        large = pixel_peaks(lanes, points - lanes.images) >= threshold[:, None]
        points = torch.where(large[:, lanes.pixel_of], points, lanes.images)
        return SigmaZeroState(points, threshold, moments, state.taken + 1)


def sigma_zero(options: AttackOptions, norm: float) -> SigmaZeroSearch:
    """With so many steps."""
    return SigmaZeroSearch(steps=options.steps or SigmaZeroSearch.steps)
