"""Basin hopping as one of the searches: the pool's best candidates are its elite every other time.

Neighbourhoods find what gradients miss nearby; hops find other basins, and pass on what the other
searches found to inputs further away.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import torch

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


def hopped(hopping: Hopping, query: Query, budget: Budget) -> AttackOutcome:
    """Candidates of one hopping."""
    return run(compiled(query.network, torch.float32), [query], hopping, budget)[0]


class HopSearch:
    """Hoppings one after the other, from anew and from the pool in turn.

    Args:
        hopping: how.
        arena: of the attack.
    """

    def __init__(self, hopping: Hopping, arena: Arena) -> None:
        self._hopping = hopping
        self._arena = arena
        self._query = _quickest(arena)
        self._turn = 0
        self._lock = threading.Lock()

    def step(self) -> None:
        """One hopping."""
        with self._lock:
            turn, self._turn = self._turn, self._turn + 1
        arena, hopping = self._arena, self._hopping
        best = arena.elites(hopping.elites)
        if turn % 2 and best:
            shape = self._query.network.input_shape
            hopping = hopping.resumed(np.stack([found.point.reshape(shape) for found in best]))
        seeded = replace(arena.budget, seed=arena.budget.seed + turn + 1)
        arena.add(hopped(hopping, self._query, seeded))
        for start in arena.starts(1):
            arena.walk(start.point)


def _quickest(arena: Arena) -> Query:
    """The query about the reduced network where that is small, else as it was given."""
    units = arena.problem.units
    weights = units.weight.size + sum(layer.weight.size for layer in units.layers)
    return arena.problem.flat if weights <= _DENSE_WEIGHTS else arena.query
