"""PGD: projected gradient descent on the margin (Madry et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import Model, Norm, attack_images

__all__ = ["PGD", "pgd"]


def pgd(options: AttackOptions) -> Descent:
    """Random starts; every lane lowers the margin of whichever clause is nearest."""
    return Descent(
        name="pgd",
        steps=options.steps or 100,
        restarts=options.restarts or 10,
        step_size=options.step_size or 1.0,
    )


@dataclass(frozen=True, eq=False)
class PGD:
    """`PGD(net, eps=0.3)(images, labels)`: adversarial images."""

    net: Model
    eps: float
    steps: int = 100
    restarts: int = 10
    norm: Norm = "inf"
    seed: int = 0

    def __call__(
        self, images: Float[Tensor, "B ..."], labels: Int[Tensor, "labels"]
    ) -> Float[Tensor, "B ..."]:
        """Images in [0, 1] and true labels in, perturbed images out."""
        method = pgd(AttackOptions(steps=self.steps, restarts=self.restarts))
        return attack_images(
            self.net, images, labels, method, eps=self.eps, norm=self.norm, seed=self.seed
        )
