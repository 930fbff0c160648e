"""PGD on the cross-entropy, as it was first published (Madry et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.losses import CrossEntropyLoss
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import Model, Norm, attack_images

__all__ = ["CrossEntropyPGD", "cross_entropy_pgd"]


def cross_entropy_pgd(options: AttackOptions) -> Descent:
    """Random starts; every lane lowers the log-probability of the true class."""
    return Descent(
        name="pgd-ce",
        loss=CrossEntropyLoss(),
        steps=options.steps or 100,
        restarts=options.restarts or 10,
        step_size=options.step_size or 1.0,
    )


@dataclass(frozen=True, eq=False)
class CrossEntropyPGD:
    """`CrossEntropyPGD(net, eps=0.3)(images, labels)`: adversarial images."""

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
        method = cross_entropy_pgd(AttackOptions(steps=self.steps, restarts=self.restarts))
        return attack_images(
            self.net, images, labels, method, eps=self.eps, norm=self.norm, seed=self.seed
        )
