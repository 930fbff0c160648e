"""PGD whose restarts first climb a random direction of the outputs (Tashiro et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import Model, Norm, attack_images

__all__ = ["ODSPGD", "ods_pgd"]


def ods_pgd(options: AttackOptions) -> Descent:
    """Output-diversified starts, then the margin of whichever clause is nearest."""
    return Descent(
        name="ods-pgd",
        diversify=10,
        steps=options.steps or 100,
        restarts=options.restarts or 10,
        step_size=options.step_size or 1.0,
    )


@dataclass(frozen=True, eq=False)
class ODSPGD:
    """`ODSPGD(net, eps=0.3)(images, labels)`: adversarial images."""

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
        method = ods_pgd(AttackOptions(steps=self.steps, restarts=self.restarts))
        return attack_images(
            self.net, images, labels, method, eps=self.eps, norm=self.norm, seed=self.seed
        )
