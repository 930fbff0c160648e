"""Attacks: everything that pushes the upper end of a bracket down.

The classes here follow the convention of attack libraries: `PGD(net, eps=0.3)(images, labels)`
takes tensors and returns tensors. Torch loads when one of them is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from closegap.core.imports import lazily

if TYPE_CHECKING:
    from closegap.attacks.activation.bab_attack.attack import BaBAttack
    from closegap.attacks.activation.lippa import LiPPA
    from closegap.attacks.activation.mip_attack import MIPAttack
    from closegap.attacks.activation.region_walk import RegionWalk
    from closegap.attacks.gradient.apgd import APGDCE, APGDDLR, APGDT
    from closegap.attacks.gradient.autoattack import AutoAttack, AutoAttackPlus
    from closegap.attacks.gradient.cross_entropy import CrossEntropyPGD
    from closegap.attacks.gradient.distributional import DAA
    from closegap.attacks.gradient.diverse_inputs import DIFGSM
    from closegap.attacks.gradient.fab import FAB, FABT
    from closegap.attacks.gradient.fgsm import FGSM
    from closegap.attacks.gradient.gama import GAMAPGD
    from closegap.attacks.gradient.hopping import HopPGD
    from closegap.attacks.gradient.momentum import MIFGSM
    from closegap.attacks.gradient.multi_targeted import MultiTargetedPGD
    from closegap.attacks.gradient.output_diversified import ODSPGD
    from closegap.attacks.gradient.pgd import PGD
    from closegap.attacks.gradient.pgd_adam import AdamPGD
    from closegap.attacks.gradient.square import Square
    from closegap.attacks.minimal.images import CW, EAD, FMN, DeepFool, SigmaZero, SparseFool

__all__ = [
    "APGDCE",
    "APGDDLR",
    "APGDT",
    "CW",
    "DAA",
    "DIFGSM",
    "EAD",
    "FAB",
    "FABT",
    "FGSM",
    "FMN",
    "GAMAPGD",
    "MIFGSM",
    "ODSPGD",
    "PGD",
    "AdamPGD",
    "AutoAttack",
    "AutoAttackPlus",
    "BaBAttack",
    "CrossEntropyPGD",
    "DeepFool",
    "HopPGD",
    "LiPPA",
    "MIPAttack",
    "MultiTargetedPGD",
    "RegionWalk",
    "SigmaZero",
    "SparseFool",
    "Square",
]

_HOME = {
    "APGDCE": "gradient.apgd",
    "APGDDLR": "gradient.apgd",
    "APGDT": "gradient.apgd",
    "AdamPGD": "gradient.pgd_adam",
    "BaBAttack": "activation.bab_attack.attack",
    "AutoAttack": "gradient.autoattack",
    "AutoAttackPlus": "gradient.autoattack",
    "CW": "minimal.images",
    "CrossEntropyPGD": "gradient.cross_entropy",
    "DAA": "gradient.distributional",
    "DeepFool": "minimal.images",
    "DIFGSM": "gradient.diverse_inputs",
    "EAD": "minimal.images",
    "FAB": "gradient.fab",
    "FABT": "gradient.fab",
    "FGSM": "gradient.fgsm",
    "FMN": "minimal.images",
    "GAMAPGD": "gradient.gama",
    "HopPGD": "gradient.hopping",
    "LiPPA": "activation.lippa",
    "MIFGSM": "gradient.momentum",
    "MIPAttack": "activation.mip_attack",
    "MultiTargetedPGD": "gradient.multi_targeted",
    "ODSPGD": "gradient.output_diversified",
    "PGD": "gradient.pgd",
    "RegionWalk": "activation.region_walk",
    "SigmaZero": "minimal.images",
    "SparseFool": "minimal.images",
    "Square": "gradient.square",
}

__getattr__, __dir__ = lazily(__name__, _HOME)
