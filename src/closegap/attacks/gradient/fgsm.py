"""FGSM: one full step along the sign of the gradient (Goodfellow et al., 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.images import Model, Norm, attack_images

__all__ = ["FGSM", "fgsm"]


def fgsm(options: AttackOptions) -> Descent:
    """One step from the center to the corner (or rim) that the gradient points at."""
    return Descent(
        name="fgsm",
        start=CenterStart(),
        steps=1,
        restarts=1,
        step_size=options.step_size or 1.0,
        escape=False,
    )


@dataclass(frozen=True, eq=False)
class FGSM:
    """`FGSM(net, eps=0.3)(images, labels)`: adversarial images."""

    net: Model
    eps: float
    norm: Norm = "inf"
    seed: int = 0

    def __call__(
        self, images: Float[Tensor, "B ..."], labels: Int[Tensor, "labels"]
    ) -> Float[Tensor, "B ..."]:
        """Images in [0, 1] and true labels in, perturbed images out."""
        method = fgsm(AttackOptions())
        return attack_images(
            self.net, images, labels, method, eps=self.eps, norm=self.norm, seed=self.seed
        )
