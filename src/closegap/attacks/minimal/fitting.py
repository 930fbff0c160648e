"""Attacks of least distance with as many steps as there is time for.

Their step lengths fall from the first step to the last: a schedule that the clock cuts off in the
middle comes to little, a shorter one that ends comes to nearly as much as the whole.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import torch

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.attack import MinimalAttack, room_of
from closegap.attacks.minimal.lanes import build_lanes
from closegap.attacks.minimal.method import descend
from closegap.attacks.minimal.registry import make_minimal
from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery

__all__ = ["fitted"]

#: Steps that are timed beforehand, so many times: the first steps of all, and those that others'
#: work held up, take longer than those to come. Attacks of few steps are not timed.
_PROBED, _TRIALS, _SHORT = 10, 2, 100
#: Steps (of each binary search, where there is one) that are worth beginning.
_LEAST = 20


def fitted(
    name: str,
    sizes: AttackOptions,
    norm: float,
    query: DistanceQuery,
    budget: Budget,
    *,
    share: float,
) -> MinimalAttack | None:
    """The attack with all its steps where they fit into the time, with fewer where they do not.

    Args:
        name: in the registry.
        sizes: its steps at most, and its lanes.
        norm: 0 (pixels), 1, 2 or infinity.
        query: some steps towards its counterexamples are timed.
        budget: what all steps have to fit into.
        share: of the time, for fewer steps than all.

    Returns:
        `None` where there is not even time for a few steps.
    """
    whole = make_minimal(name, sizes, norm)
    if whole.method.steps <= _SHORT:
        return whole
    least = make_minimal(name, replace(sizes, steps=1), norm).method.steps
    pace = max(_pace(whole, query, budget), TINY)
    if pace * whole.method.steps <= budget.remaining:
        return whole
    steps = math.floor(share * budget.remaining / (pace * least))
    return None if steps < _LEAST else make_minimal(name, replace(sizes, steps=steps), norm)


def _pace(attack: MinimalAttack, query: DistanceQuery, budget: Budget) -> float:
    """Seconds a step, by the first few, in the quickest of some trials."""
    network = compiled(query.network, torch.float32)
    lanes = build_lanes(network, [query], attack.restarts, room_of(network, budget))
    seconds = []
    for _ in range(_TRIALS):
        random = torch.Generator().manual_seed(budget.seed)
        begun = time.monotonic()
        descend(attack.method, lanes, budget, random, most=_PROBED)
        seconds.append(time.monotonic() - begun)
    return min(seconds) / _PROBED
