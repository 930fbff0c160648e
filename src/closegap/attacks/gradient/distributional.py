"""DAA: the restarts of an image move as samples of one distribution (Zheng et al., 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.descent import Descent, DescentState
from closegap.attacks.gradient.losses import CrossEntropyLoss
from closegap.attacks.gradient.method import Evaluation, Objective
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import Problem
from closegap.attacks.gradient.variant import DescentVariant
from closegap.attacks.images import ImageAttack
from closegap.core.numerics import TINY

__all__ = ["DAA", "DistributionalDescent", "distributional", "interaction"]


@dataclass(frozen=True)
class DistributionalDescent(DescentVariant):
    """A descent whose gradients are mixed with what the blob method makes of all lanes'.

    The particles are the lanes of one image, so that no answer depends on which other images are
    attacked beside it; the authors take the images of a batch.

    Attributes:
        descent: whose steps are taken.
        balance: weight of the interaction (c).

    Source: Zheng, Chen and Ren, Distributionally Adversarial Attack, AAAI 2019, DAA-BLOB.
    """

    descent: Descent = field(default_factory=lambda: Descent("daa"))
    balance: float = 1.1

    def init(self, problem: Problem, random: torch.Generator) -> DescentState:
        """The descent's."""
        return self.descent.init(problem, random)

    def objective(self, problem: Problem, state: DescentState) -> Objective:
        """The descent's."""
        return self.descent.objective(problem, state)

    def step(
        self, problem: Problem, state: DescentState, seen: Evaluation, random: torch.Generator
    ) -> DescentState:
        """The descent's step along gradient and interaction."""
        pushed = self.balance * interaction(state.points, seen.gradient)
        mixed = replace(seen, gradient=seen.gradient + pushed)
        return self.descent.step(problem, state, mixed, random)


def interaction(
    points: Float[Tensor, "B L D"], gradient: Float[Tensor, "B L D"]
) -> Float[Tensor, "B L D"]:
    """`mean_j K_ij (gradient_j + (x_i - x_j) / h^2)` with a Gaussian K of width h.

    `h^2` is the median of the squared distances over `2 log L`, as in Stein variational descent.
    """
    lanes = points.shape[1]
    squares = torch.cdist(points, points).square()
    median = squares.flatten(1).median(dim=1).values
    width = (0.5 * median / math.log(max(2, lanes))).clamp(min=TINY)[:, None, None]
    kernel = torch.exp(-squares / (2 * width))
    apart = kernel.sum(dim=2, keepdim=True) * points - kernel @ points
    return (kernel @ gradient + (apart / width).nan_to_num()) / lanes


def distributional(options: AttackOptions) -> DistributionalDescent:
    """Random starts and equal sign steps on the cross-entropy."""
    size = options.step_size or 0.03
    descent = Descent(
        name="daa",
        loss=CrossEntropyLoss(),
        steps=options.steps or 100,
        restarts=options.restarts or 10,
        step_size=size,
        last_step=size,
    )
    return DistributionalDescent(descent)


#: `DAA(net, eps=0.3)(images, labels)`: adversarial images.
DAA = ImageAttack(distributional)
