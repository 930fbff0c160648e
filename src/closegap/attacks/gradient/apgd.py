"""APGD on the cross-entropy, on the ratio of logits, and targeted (Croce and Hein, 2020)."""

from __future__ import annotations

from closegap.attacks.gradient.auto_descent import AutoDescent
from closegap.attacks.gradient.losses import CrossEntropyLoss
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack

__all__ = ["APGDCE", "APGDDLR", "APGDT", "TARGETS", "apgd_ce", "apgd_dlr", "apgd_targeted"]

#: Wrong classes that targeted attacks go for, the nearest of the clean image first.
TARGETS = 9


def apgd_ce(options: AttackOptions) -> AutoDescent:
    """Every lane lowers the log-probability of the true class."""
    return AutoDescent(
        name="apgd-ce",
        loss=CrossEntropyLoss(),
        steps=options.steps or 100,
        restarts=options.restarts or 1,
        step_size=options.step_size or 2.0,
    )


def apgd_dlr(options: AttackOptions) -> AutoDescent:
    """Every lane lowers the ratio of logits for whichever class is nearest."""
    return AutoDescent(
        name="apgd-dlr",
        steps=options.steps or 100,
        restarts=options.restarts or 1,
        step_size=options.step_size or 2.0,
    )


def apgd_targeted(options: AttackOptions) -> AutoDescent:
    """Lanes of their own for the nine nearest classes lower the ratio of logits."""
    return AutoDescent(
        name="apgd-t",
        targets=TARGETS,
        steps=options.steps or 100,
        restarts=options.restarts or 1,
        step_size=options.step_size or 2.0,
    )


#: `APGDCE(net, eps=0.3)(images, labels)`: adversarial images.
APGDCE = ImageAttack(apgd_ce)
#: `APGDDLR(net, eps=0.3)(images, labels)`: adversarial images.
APGDDLR = ImageAttack(apgd_dlr)
#: `APGDT(net, eps=0.3)(images, labels)`: adversarial images.
APGDT = ImageAttack(apgd_targeted)
