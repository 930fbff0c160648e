"""FAB as an attack of least distance: it looks for a point that is nearer than a distance."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.attacks.gradient.fab import fab_targeted
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackInterrupted
from closegap.core.budget import Budget
from closegap.core.numerics import NEARER_SHARE
from closegap.runtime.cache import compiled
from closegap.specs.distance import DistanceQuery

__all__ = ["below"]

#: After a search that found a point the next asks for one nearer by so many times the share, up to
#: a hundredth; after one that found none, for a less near one. At most so many searches.
_FASTER, _MOST, _SEARCHES = 4, 0.01, 16
#: Of the points of one search, how many are judged.
_JUDGED = 4


def below(query: DistanceQuery, distance: float, budget: Budget, judge: OnNearer) -> Nearest:
    """FAB for nearer and nearer points than a distance, until it finds none.

    Args:
        query: of a norm.
        distance: to pass.
        budget: deadline and seed.
        judge: says of a float32 point and its distance whether it counts.

    Raises:
        AttackInterrupted: Ctrl-C; what was found until then was judged.
    """
    best, share = Nearest(), NEARER_SHARE
    for _ in range(_SEARCHES):
        if budget.expired or not distance > 0:
            break
        found = _within(query, (1 - share) * distance, budget, judge)
        if found.found:
            best, distance, share = found, found.distance, min(_FASTER * share, _MOST)
        elif share == NEARER_SHARE:
            break
        else:
            share = max(share / _FASTER, NEARER_SHARE)
    return best


def _within(query: DistanceQuery, radius: float, budget: Budget, judge: OnNearer) -> Nearest:
    asked, network = query.within(radius), compiled(query.network, torch.float32)
    try:
        (outcome,) = run(network, [asked], fab_targeted(AttackOptions()), budget)
    except AttackInterrupted as stop:
        _nearest(query, stop.outcomes[0].points, judge)
        raise
    return _nearest(query, outcome.points, judge)


def _nearest(query: DistanceQuery, points: NDArray[np.float32], judge: OnNearer) -> Nearest:
    """The nearest of the first few points that count."""
    best = Nearest()
    for point in points[:_JUDGED]:
        distance = query.distance(point)
        if distance < best.distance and judge(point, distance):
            best = Nearest(distance, point)
    return best
