"""PGD: projected gradient descent on the margin (Madry et al., 2018)."""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack

__all__ = ["PGD", "pgd"]


def pgd(options: AttackOptions) -> Descent:
    """Random starts; every lane lowers the margin of whichever clause is nearest."""
    return Descent(
        name="pgd",
        steps=options.steps or 100,
        restarts=options.restarts or 10,
        step_size=options.step_size or 1.0,
    )


#: `PGD(net, eps=0.3)(images, labels)`: adversarial images.
PGD = ImageAttack(pgd)
