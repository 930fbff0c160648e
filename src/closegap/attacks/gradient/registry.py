"""Attacks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from closegap.attacks.gradient.apgd import apgd_ce, apgd_dlr, apgd_targeted
from closegap.attacks.gradient.cross_entropy import cross_entropy_pgd
from closegap.attacks.gradient.distributional import distributional
from closegap.attacks.gradient.diverse_inputs import diverse_fgsm
from closegap.attacks.gradient.fab import fab, fab_targeted
from closegap.attacks.gradient.fgsm import fgsm
from closegap.attacks.gradient.gama import gama_pgd
from closegap.attacks.gradient.hard_filter import hard_multi_targeted, hard_output_diversified
from closegap.attacks.gradient.hopping import hop_pgd
from closegap.attacks.gradient.method import Method
from closegap.attacks.gradient.momentum import momentum_fgsm
from closegap.attacks.gradient.multi_targeted import multi_targeted_pgd
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.output_diversified import ods_pgd
from closegap.attacks.gradient.pgd import pgd
from closegap.attacks.gradient.pgd_adam import adam_pgd
from closegap.attacks.gradient.sampling import sampling
from closegap.attacks.gradient.square import square
from closegap.core.errors import OptionError

__all__ = ["METHODS", "make_method"]

Factory: TypeAlias = Callable[[AttackOptions], Method[Any]]

METHODS: dict[str, Factory] = {
    "fgsm": fgsm,
    "mi-fgsm": momentum_fgsm,
    "di-fgsm": diverse_fgsm,
    "pgd": pgd,
    "pgd-adam": adam_pgd,
    "pgd-ce": cross_entropy_pgd,
    "mt-pgd": multi_targeted_pgd,
    "ods-pgd": ods_pgd,
    "gama-pgd": gama_pgd,
    "hop-pgd": hop_pgd,
    "mt-pgd-hard": hard_multi_targeted,
    "ods-pgd-hard": hard_output_diversified,
    "apgd-ce": apgd_ce,
    "apgd-dlr": apgd_dlr,
    "apgd-t": apgd_targeted,
    "fab": fab,
    "fab-t": fab_targeted,
    "square": square,
    "daa": distributional,
    "sampling": sampling,
}


def make_method(name: str, options: AttackOptions | None = None) -> Method[Any]:
    """The attack of this name, with these options.

    Raises:
        OptionError: no attack has this name.
    """
    if name not in METHODS:
        raise OptionError(f"no attack is called '{name}'; there are {', '.join(METHODS)}")
    return METHODS[name](options or AttackOptions())
