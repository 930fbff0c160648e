"""PGD on the GAMA loss (Sriramanan et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.losses import GamaLoss
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import Model, Norm, attack_images

__all__ = ["GAMAPGD", "gama_pgd"]


def gama_pgd(options: AttackOptions) -> Descent:
    """Output-diversified starts, then the margin of probabilities and, at first, distance."""
    return Descent(
        name="gama-pgd",
        loss=GamaLoss(),
        diversify=5,
        steps=options.steps or 100,
        restarts=options.restarts or 10,
        step_size=options.step_size or 1.0,
    )


@dataclass(frozen=True, eq=False)
class GAMAPGD:
    """`GAMAPGD(net, eps=0.3)(images, labels)`: adversarial images."""

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
        method = gama_pgd(AttackOptions(steps=self.steps, restarts=self.restarts))
        return attack_images(
            self.net, images, labels, method, eps=self.eps, norm=self.norm, seed=self.seed
        )
