"""PGD on the GAMA loss (Sriramanan et al., 2020)."""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.losses import GamaLoss
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack

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


#: `GAMAPGD(net, eps=0.3)(images, labels)`: adversarial images.
GAMAPGD = ImageAttack(gama_pgd)
