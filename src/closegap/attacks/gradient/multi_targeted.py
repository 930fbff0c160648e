"""Multi-targeted PGD: lanes of their own for every clause (Gowal et al., 2019)."""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.method import EVERY_CLAUSE
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack

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


#: `MultiTargetedPGD(net, eps=0.3)(images, labels)`: adversarial images.
MultiTargetedPGD = ImageAttack(multi_targeted_pgd)
