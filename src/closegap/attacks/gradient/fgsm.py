"""FGSM: one full step along the sign of the gradient (Goodfellow et al., 2015).

The gradient is that of the least margin; as published it is that of the cross-entropy, which has
the same sign where there are two classes.
"""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.images import ImageAttack
from closegap.core.errors import OptionError

__all__ = ["FGSM", "fgsm"]


def fgsm(options: AttackOptions) -> Descent:
    """One step from the center to the corner (or rim) that the gradient points at.

    The center of a box is its middle: the image itself but where [0, 1] cuts its ball.

    Raises:
        OptionError: more than one step or restart is asked for.
    """
    if (options.steps or 1) > 1 or (options.restarts or 1) > 1:
        raise OptionError("fgsm takes one step, once; leave steps and restarts out, or use pgd")
    return Descent(
        name="fgsm",
        start=CenterStart(),
        steps=1,
        restarts=1,
        step_size=options.step_size or 1.0,
        escape=False,
    )


#: `FGSM(net, eps=0.3)(images, labels)`: adversarial images.
FGSM = ImageAttack(fgsm)
