"""Basin hopping as one of the searches: the pool's best candidates are its elite now and then.

Neighbourhoods find what gradients miss nearby; hops find other basins, and pass on what the other
searches found to inputs further away.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.attacks.activation.bab_attack.arena import Arena
from closegap.attacks.gradient.hopping import Hopping
from closegap.attacks.gradient.loop import run
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.runtime.cache import compiled
from closegap.specs.query import Query

__all__ = ["HopSearch", "hopped"]

#: Up to so many weights, products of matrices are faster than the network as it was given.
_DENSE_WEIGHTS = 500_000
#: Kinds of hopping: anew, from its own best, from the pool's.
_OWN, _POOL, _KINDS = 1, 2, 3


def hopped(hopping: Hopping, query: Query, budget: Budget) -> AttackOutcome:
    """Candidates of one hopping."""
    return run(compiled(query.network, torch.float32), [query], hopping, budget)[0]


class HopSearch:
    """Hoppings one after the other: a new one begins, its best one goes on, the pool's go on.

    Args:
        hopping: how.
        arena: of the attack.
        first: what a hopping before this search found; it is gone on with.
    """

    def __init__(self, hopping: Hopping, arena: Arena, first: AttackOutcome) -> None:
        self._hopping = hopping
        self._arena = arena
        self._query = _quickest(arena)
        self._own, self._least = first.points[: hopping.elites], first.margin
        self._turn = 0
        self._lock = threading.Lock()

    def step(self) -> None:
        """One hopping."""
        with self._lock:
            turn, self._turn = self._turn, self._turn + 1
            kind = turn % _KINDS
            elite = self._elite(kind)
        arena, hopping = self._arena, self._hopping
        seeded = replace(arena.budget, seed=arena.budget.seed + turn + 1)
        outcome = hopped(hopping.resumed(elite) if len(elite) else hopping, self._query, seeded)
        arena.add(outcome)
        with self._lock:
            if outcome.margin < self._least or kind == _OWN:
                self._own, self._least = outcome.points[: hopping.elites], outcome.margin
        for start in arena.starts(1):
            arena.walk(start.point)

    def _elite(self, kind: int) -> NDArray[np.float32]:
        """Points to go on from; none for a new hopping."""
        shape = self._query.network.input_shape
        if kind == _OWN:
            return self._own.reshape(-1, *shape)
        far = self._arena.elites(self._hopping.elites) if kind == _POOL else ()
        points = [candidate.point.reshape(shape) for candidate in far]
        return np.stack(points) if points else np.zeros((0, *shape), np.float32)


def _quickest(arena: Arena) -> Query:
    """The query about the reduced network where that is small, else as it was given."""
    units = arena.problem.units
    weights = units.weight.size + sum(layer.weight.size for layer in units.layers)
    return arena.problem.flat if weights <= _DENSE_WEIGHTS else arena.query
