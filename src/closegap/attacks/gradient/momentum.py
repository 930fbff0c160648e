"""MI-FGSM: sign steps along an accumulated gradient (Dong et al., 2018).

The gradient is that of the least margin; as published it is that of the cross-entropy.
"""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.gradient.steppers import SteepestStepper
from closegap.attacks.images import ImageAttack

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


#: `MIFGSM(net, eps=0.3)(images, labels)`: adversarial images.
MIFGSM = ImageAttack(momentum_fgsm)
