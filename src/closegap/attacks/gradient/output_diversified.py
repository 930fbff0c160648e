"""PGD whose restarts first climb a random direction of the outputs (Tashiro et al., 2020)."""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack

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


#: `ODSPGD(net, eps=0.3)(images, labels)`: adversarial images.
ODSPGD = ImageAttack(ods_pgd)
