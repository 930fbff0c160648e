"""Multi-targeted PGD: lanes of their own for every clause (Gowal et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.method import EVERY_CLAUSE
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import Model, Norm, attack_images

__all__ = ["MultiTargetedPGD", "multi_targeted_pgd"]


def multi_targeted_pgd(options: AttackOptions) -> Descent:
    """Random starts; each clause has lanes that lower its own margin."""
    return Descent(
        name="mt-pgd",
        targets=EVERY_CLAUSE,
        steps=options.steps or 100,
        restarts=options.restarts or 5,
        step_size=options.step_size or 1.0,
    )


@dataclass(frozen=True, eq=False)
class MultiTargetedPGD:
    """`MultiTargetedPGD(net, eps=0.3)(images, labels)`: adversarial images."""

    net: Model
    eps: float
    steps: int = 100
    restarts: int = 5
    norm: Norm = "inf"
    seed: int = 0

    def __call__(
        self, images: Float[Tensor, "B ..."], labels: Int[Tensor, "labels"]
    ) -> Float[Tensor, "B ..."]:
        """Images in [0, 1] and true labels in, perturbed images out."""
        method = multi_targeted_pgd(AttackOptions(steps=self.steps, restarts=self.restarts))
        return attack_images(
            self.net, images, labels, method, eps=self.eps, norm=self.norm, seed=self.seed
        )
