"""PGD on the cross-entropy, as it was first published (Madry et al., 2018)."""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.losses import CrossEntropyLoss
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack

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


#: `CrossEntropyPGD(net, eps=0.3)(images, labels)`: adversarial images.
CrossEntropyPGD = ImageAttack(cross_entropy_pgd)
