"""Attacks: everything that pushes the upper end of a bracket down.

The classes here follow the convention of attack libraries: `PGD(net, eps=0.3)(images, labels)`
takes tensors and returns tensors. Torch loads when one of them is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from closegap.attacks.gradient.cross_entropy import CrossEntropyPGD
    from closegap.attacks.gradient.fgsm import FGSM
    from closegap.attacks.gradient.gama import GAMAPGD
    from closegap.attacks.gradient.hopping import HopPGD
    from closegap.attacks.gradient.momentum import MIFGSM
    from closegap.attacks.gradient.multi_targeted import MultiTargetedPGD
    from closegap.attacks.gradient.output_diversified import ODSPGD
    from closegap.attacks.gradient.pgd import PGD
    from closegap.attacks.gradient.pgd_adam import AdamPGD

__all__ = [
    "FGSM",
    "GAMAPGD",
    "MIFGSM",
    "ODSPGD",
    "PGD",
    "AdamPGD",
    "CrossEntropyPGD",
    "HopPGD",
    "MultiTargetedPGD",
]

_HOME = {
    "AdamPGD": "pgd_adam",
    "CrossEntropyPGD": "cross_entropy",
    "FGSM": "fgsm",
    "GAMAPGD": "gama",
    "HopPGD": "hopping",
    "MIFGSM": "momentum",
    "MultiTargetedPGD": "multi_targeted",
    "ODSPGD": "output_diversified",
    "PGD": "pgd",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"closegap.attacks.gradient.{_HOME[name]}"), name)
    raise AttributeError(f"module 'closegap.attacks' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
