"""All attacks by name: gradient attacks, ensembles of them, and attacks on single queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from closegap.attacks.activation.bab_attack.attack import bab_attack, beam, dive, lns
from closegap.attacks.activation.lippa import lippa
from closegap.attacks.activation.mip_attack import mip_attack
from closegap.attacks.activation.query_attack import Attack, QueryAttack
from closegap.attacks.activation.region_walk import region_walk
from closegap.attacks.binarized.bit_search import bit_search
from closegap.attacks.binarized.iprop import iprop
from closegap.attacks.binarized.milp_attack import sign_milp
from closegap.attacks.binarized.portfolio import sign_portfolio
from closegap.attacks.binarized.soft_descent import soft_descent
from closegap.attacks.binarized.straight_through import straight_through_attack
from closegap.attacks.gradient.autoattack import autoattack, autoattack_plus
from closegap.attacks.gradient.ensemble import Ensemble
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.registry import METHODS, make_method
from closegap.attacks.minimal.registry import MINIMAL
from closegap.core.errors import OptionError

__all__ = ["ENSEMBLES", "QUERY_ATTACKS", "make_attack"]

QueryFactory: TypeAlias = Callable[[AttackOptions], QueryAttack]

ENSEMBLES: dict[str, Callable[[AttackOptions], Ensemble]] = {
    "autoattack": autoattack,
    "autoattack-plus": autoattack_plus,
}

QUERY_ATTACKS: dict[str, QueryFactory] = {
    "bab-attack": bab_attack,
    "bit-search": bit_search,
    "lns": lns,
    "dive": dive,
    "beam": beam,
    "iprop": iprop,
    "lippa": lippa,
    "milp": sign_milp,
    "mip": mip_attack,
    "region-walk": region_walk,
    "sign-portfolio": sign_portfolio,
    "soft-descent": soft_descent,
    "ste-pgd": straight_through_attack,
}


#: What moves by no step of a given size.
_OWN_STEPS = frozenset(
    {*ENSEMBLES, *QUERY_ATTACKS, "fab", "fab-t", "sampling", "square"}
    - {"bab-attack", "beam", "dive", "lns", "ste-pgd"}
)


def make_attack(name: str, options: AttackOptions | None = None) -> Attack:
    """The attack of this name, with these options.

    Raises:
        OptionError: no attack has this name, or a size is given that it has no use for.
    """
    if name in _OWN_STEPS and options is not None and options.step_size is not None:
        raise OptionError(f"{name} chooses its step sizes itself; leave the step size out")
    if name in QUERY_ATTACKS:
        return QUERY_ATTACKS[name](options or AttackOptions())
    if name in ENSEMBLES:
        return ENSEMBLES[name](options or AttackOptions())
    if name not in METHODS:
        known = ", ".join([*METHODS, *ENSEMBLES, *QUERY_ATTACKS])
        nearest = ", ".join(MINIMAL)
        raise OptionError(
            f"no attack is called '{name}'; within a radius there are {known}; of least distance, "
            f"without a radius, {nearest}"
        )
    return make_method(name, options)
