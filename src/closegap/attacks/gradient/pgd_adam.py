"""PGD with Adam's steps in place of signs."""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.steppers import AdamStepper
from closegap.attacks.images import ImageAttack

__all__ = ["AdamPGD", "adam_pgd"]


def adam_pgd(options: AttackOptions) -> Descent:
    """Random starts; every input moves by its own adapted step."""
    return Descent(
        name="pgd-adam",
        stepper=AdamStepper(),
        steps=options.steps or 100,
        restarts=options.restarts or 10,
        step_size=options.step_size or 0.2,
    )


#: `AdamPGD(net, eps=0.3)(images, labels)`: adversarial images.
AdamPGD = ImageAttack(adam_pgd)
