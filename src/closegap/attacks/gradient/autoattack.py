"""AutoAttack: the ensembles `standard` and `plus` (Croce and Hein, ICML 2020)."""

from __future__ import annotations

from dataclasses import replace

from closegap.attacks.gradient.apgd import apgd_ce, apgd_dlr, apgd_targeted
from closegap.attacks.gradient.ensemble import Ensemble
from closegap.attacks.gradient.fab import fab, fab_targeted
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.square import SquareSearch
from closegap.attacks.images import ImageAttack

__all__ = ["AutoAttack", "AutoAttackPlus", "autoattack", "autoattack_plus"]

#: Queries of Square for each step of the others.
_QUERIES = 50


def autoattack(options: AttackOptions) -> Ensemble:
    """APGD on the cross-entropy, targeted APGD, targeted FAB, Square; 100 steps, a restart each."""
    methods = (
        apgd_ce(options),
        apgd_targeted(options),
        fab_targeted(options),
        _square(options),
    )
    return Ensemble("autoattack", methods)


def autoattack_plus(options: AttackOptions) -> Ensemble:
    """APGD on both losses, FAB (five restarts each), Square, targeted APGD, targeted FAB (five)."""
    five = replace(options, restarts=options.restarts or 5)
    methods = (
        apgd_ce(five),
        apgd_dlr(five),
        fab(five),
        _square(options),
        apgd_targeted(options),
        fab_targeted(five),
    )
    return Ensemble("autoattack-plus", methods)


def _square(options: AttackOptions) -> SquareSearch:
    steps = _QUERIES * (options.steps or 100)
    return SquareSearch(steps=steps, restarts=options.restarts or 1, rescale=False)


#: `AutoAttack(net, eps=0.3)(images, labels)`: adversarial images.
AutoAttack = ImageAttack(autoattack)
#: `AutoAttackPlus(net, eps=0.3)(images, labels)`: adversarial images.
AutoAttackPlus = ImageAttack(autoattack_plus)
