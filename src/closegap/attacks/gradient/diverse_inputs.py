"""DI-FGSM: gradients of images that were shrunk and shifted at random (Xie et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.descent import Descent, DescentState
from closegap.attacks.gradient.losses import CrossEntropyLoss
from closegap.attacks.gradient.method import Evaluation, Objective, Viewed
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import Problem
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.gradient.steppers import SteepestStepper
from closegap.attacks.gradient.variant import DescentVariant
from closegap.attacks.images import ImageAttack

__all__ = ["DIFGSM", "DiverseDescent", "DiverseState", "diverse_fgsm", "shrink_and_shift"]


@dataclass(frozen=True, eq=False)
class DiverseState:
    """The descent's state, and what is drawn for its next gradient.

    Attributes:
        inner: of the descent.
        dice: uniform in [0, 1): whether to transform, the size, the place down, the place across.
    """

    inner: DescentState
    dice: Float[Tensor, "B L 4"]

    @property
    def points(self) -> Float[Tensor, "B L D"]:
        """To be evaluated next."""
        return self.inner.points


@dataclass(frozen=True)
class DiverseDescent(DescentVariant):
    """A descent whose gradients are, with a probability, those of a transformed image.

    The image is shrunk to a random size and put at a random place in a black one. Inputs that are
    no image `[C, H, W]` are never transformed.

    Attributes:
        descent: whose steps are taken.
        probability: of a transformed gradient.
        least_size: of the shrunk image, as a share of the sides.

    Source: Xie et al., Improving Transferability of Adversarial Examples with Input Diversity,
        CVPR 2019.
    """

    descent: Descent = field(default_factory=lambda: Descent("di-fgsm"))
    probability: float = 0.5
    least_size: float = 0.9

    def init(self, problem: Problem, random: torch.Generator) -> DiverseState:
        """The descent's first state, and the first dice."""
        inner = self.descent.init(problem, random)
        return DiverseState(inner, _dice(inner.points, random))

    def objective(self, problem: Problem, state: DiverseState) -> Objective | Viewed:
        """The descent's, seen through the transformation."""
        loss = self.descent.objective(problem, state.inner)
        if len(problem.shape) != 3:
            return loss
        asked = state.dice[..., 0] < self.probability
        size = self.least_size + (1 - self.least_size) * state.dice[..., 1]
        size = torch.where(asked, size, 1.0)

        def view(points: Tensor) -> Tensor:
            images = points.unflatten(2, problem.shape).flatten(0, 1)
            place = state.dice[..., 2:].flatten(0, 1)
            seen = shrink_and_shift(images, size.flatten(), place)
            kept = torch.where(asked.flatten()[:, None, None, None], seen, images)
            return kept.reshape(points.shape)

        return Viewed(view, loss)

    def step(
        self, problem: Problem, state: DiverseState, seen: Evaluation, random: torch.Generator
    ) -> DiverseState:
        """The descent's step, and new dice."""
        inner = self.descent.step(problem, state.inner, seen, random)
        return replace(state, inner=inner, dice=_dice(inner.points, random))


def shrink_and_shift(
    images: Float[Tensor, "N C H W"], size: Float[Tensor, "N"], place: Float[Tensor, "N 2"]
) -> Float[Tensor, "N C H W"]:
    """Each image shrunk by its own factor (bilinear), at its own place in a black image.

    Args:
        images: of any values.
        size: factors in (0, 1].
        place: down and across, as shares of the room that shrinking leaves; in [0, 1].
    """
    # The grid names, for a pixel of the answer in [-1, 1], where it comes from in the image.
    zoom = 1 / size
    shift = (2 * place - 1) * (zoom - 1)[:, None]
    zero = torch.zeros_like(zoom)
    across = torch.stack([zoom, zero, -shift[:, 1]], dim=1)
    down = torch.stack([zero, zoom, -shift[:, 0]], dim=1)
    theta = torch.stack([across, down], dim=1).to(images)
    shape = list(images.shape)
    grid = torch.nn.functional.affine_grid(theta, shape, align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def _dice(points: Float[Tensor, "B L D"], random: torch.Generator) -> Float[Tensor, "B L 4"]:
    return torch.rand((*points.shape[:2], 4), generator=random, device=points.device)


def diverse_fgsm(options: AttackOptions) -> DiverseDescent:
    """Equal sign steps from the center on the cross-entropy, with momentum 1."""
    size = options.step_size or 0.25
    descent = Descent(
        name="di-fgsm",
        start=CenterStart(),
        loss=CrossEntropyLoss(),
        stepper=SteepestStepper(momentum=1.0),
        steps=options.steps or 20,
        restarts=options.restarts or 1,
        step_size=size,
        last_step=size,
    )
    return DiverseDescent(descent)


#: `DIFGSM(net, eps=0.3)(images, labels)`: adversarial images.
DIFGSM = ImageAttack(diverse_fgsm)
