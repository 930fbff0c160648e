"""Attacks of least distance by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.attack import MinimalAttack
from closegap.attacks.minimal.carlini_wagner import carlini_wagner
from closegap.attacks.minimal.deepfool import deepfool
from closegap.attacks.minimal.ead import ead
from closegap.attacks.minimal.fab_nearest import fab_nearest
from closegap.attacks.minimal.fmn import fmn
from closegap.attacks.minimal.method import MinimalMethod
from closegap.attacks.minimal.sigma_zero import sigma_zero
from closegap.attacks.minimal.sparsefool import sparsefool
from closegap.core.errors import OptionError

__all__ = ["MINIMAL", "make_minimal"]

#: The method in a norm, with the user's sizes.
Factory: TypeAlias = Callable[[AttackOptions, float], MinimalMethod[Any]]

#: By name, the norms that a method knows (its own first; 0 counts pixels) and how it is made.
MINIMAL: dict[str, tuple[tuple[float, ...], Factory]] = {
    "sigma-zero": ((0.0,), sigma_zero),
    "fmn": ((math.inf, 2.0, 1.0, 0.0), fmn),
    "ead": ((1.0,), ead),
    "sparsefool": ((1.0, 0.0), sparsefool),
    "deepfool": ((2.0, math.inf, 1.0), deepfool),
    "cw": ((2.0,), carlini_wagner),
    "fab-nearest": ((math.inf, 2.0, 1.0), fab_nearest),
}


def make_minimal(
    name: str, options: AttackOptions | None = None, norm: float | None = None
) -> MinimalAttack:
    """The attack of this name, with these sizes, in this norm.

    Args:
        name: a key of `MINIMAL`.
        options: steps and restarts; what is left out keeps the method's default.
        norm: 0 (pixels), 1, 2 or infinity; the method's own if `None`.

    Raises:
        OptionError: no attack has this name, or it does not know the norm.
    """
    if name not in MINIMAL:
        raise OptionError(
            f"no attack of least distance is called '{name}'; there are {', '.join(MINIMAL)}"
        )
    norms, factory = MINIMAL[name]
    wanted = norms[0] if norm is None else float(norm)
    if wanted not in norms:
        known = ", ".join(f"l{n:g}" for n in norms)
        raise OptionError(f"{name} minimises {known}, not l{wanted:g}")
    sizes = options or AttackOptions()
    if sizes.step_size is not None:
        raise OptionError(
            f"{name} has no radius that a step size could be a share of; leave it out"
        )
    return MinimalAttack(factory(sizes, wanted), restarts=sizes.restarts or 1)
