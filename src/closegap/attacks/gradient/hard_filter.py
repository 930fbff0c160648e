"""The filter that leaves hard images: PGD with 1000 Adam steps and 500 restarts.

Source: Zhang et al., A Branch and Bound Framework for Stronger Adversarial Attacks of ReLU
    Networks, ICML 2022, section 4.
"""

from __future__ import annotations

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.method import EVERY_CLAUSE
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.steppers import AdamStepper

__all__ = ["hard_multi_targeted", "hard_output_diversified"]


def hard_multi_targeted(options: AttackOptions) -> Descent:
    """Every clause has 500 restarts of its own."""
    return _filter("mt-pgd-hard", options, diversify=0)


def hard_output_diversified(options: AttackOptions) -> Descent:
    """Likewise, from output-diversified starts."""
    return _filter("ods-pgd-hard", options, diversify=10)


def _filter(name: str, options: AttackOptions, *, diversify: int) -> Descent:
    return Descent(
        name=name,
        stepper=AdamStepper(),
        targets=EVERY_CLAUSE,
        steps=options.steps or 1000,
        restarts=options.restarts or 500,
        step_size=options.step_size or 0.25,
        diversify=min(diversify, (options.steps or 1000) // 2),
    )
