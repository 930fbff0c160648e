"""MI-FGSM: sign steps along an accumulated gradient (Dong et al., 2018)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.gradient.steppers import SteepestStepper
from closegap.attacks.images import Model, Norm, attack_images

__all__ = ["MIFGSM", "momentum_fgsm"]


def momentum_fgsm(options: AttackOptions) -> Descent:
    """From the center, with momentum 1 and equal steps."""
    return Descent(
        name="mi-fgsm",
        start=CenterStart(),
        stepper=SteepestStepper(momentum=1.0),
        steps=options.steps or 20,
        restarts=options.restarts or 1,
        step_size=options.step_size or 0.25,
        last_step=options.step_size or 0.25,
    )


@dataclass(frozen=True, eq=False)
class MIFGSM:
    """`MIFGSM(net, eps=0.3)(images, labels)`: adversarial images."""

    net: Model
    eps: float
    steps: int = 20
    restarts: int = 1
    norm: Norm = "inf"
    seed: int = 0

    def __call__(
        self, images: Float[Tensor, "B ..."], labels: Int[Tensor, "labels"]
    ) -> Float[Tensor, "B ..."]:
        """Images in [0, 1] and true labels in, perturbed images out."""
        method = momentum_fgsm(AttackOptions(steps=self.steps, restarts=self.restarts))
        return attack_images(
            self.net, images, labels, method, eps=self.eps, norm=self.norm, seed=self.seed
        )
