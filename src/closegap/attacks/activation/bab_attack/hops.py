"""Basin hopping as one of the searches: the pool's best candidates are its elite every other time.

Neighbourhoods find what gradients miss nearby; hops find other basins, and pass on what the other
searches found to inputs further away. Lanes that attack whichever clause is nearest seldom leave
the clause that they fell for first, so every fourth hopping is about another one alone.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int

from closegap.attacks.activation.bab_attack.arena import Arena
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.hopping import Hopping
from closegap.attacks.gradient.loop import run
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.runtime.cache import compiled
from closegap.specs.query import Query

__all__ = ["HopSearch", "hopped", "near_clauses"]

#: Up to so many weights, products of matrices are faster than the network as it was given.
_DENSE_WEIGHTS = 500_000
#: A short attack on each of the nearest clauses, which tells those worth a hopping from the others.
_SCAN = Descent("scan", steps=40, diversify=8, restarts=4, targets=20)
#: They are worth it up to so many times the least margin of all.
_NEAR = 2.0


def hopped(method: Hopping | Descent, query: Query, budget: Budget) -> AttackOutcome:
    """Candidates of one hopping, or one descent."""
    return run(compiled(query.network, torch.float32), [query], method, budget)[0]


class HopSearch:
    """Hoppings one after the other: from anew, from the pool, about one clause, from the pool.

    Args:
        hopping: how.
        arena: of the attack.
    """

    def __init__(self, hopping: Hopping, arena: Arena) -> None:
        self._hopping = hopping
        self._arena = arena
        self._query = _quickest(arena)
        self._turn = 0
        self._near: Int[np.ndarray, "near"] | None = None
        self._lock = threading.Lock()

    def step(self) -> None:
        """One hopping."""
        with self._lock:
            turn, self._turn = self._turn, self._turn + 1
        arena, hopping, query = self._arena, self._hopping, self._query
        best = arena.elites(hopping.elites)
        if turn % 2 and best:
            shape = query.network.input_shape
            hopping = hopping.resumed(np.stack([found.point.reshape(shape) for found in best]))
        elif turn % 4 == 2 and best:
            query = self._aimed(turn // 4, arena.start(best[0]).clause)
        seeded = replace(arena.budget, seed=arena.budget.seed + turn + 1)
        found = hopped(hopping, query, seeded)
        if query is self._query:
            arena.add(found)
        else:
            arena.offer(found.points.reshape(-1, query.network.input_size).astype(np.float64))
        for start in arena.starts(1):
            arena.walk(start.point)

    def _aimed(self, number: int, best: int) -> Query:
        """The query about a near clause that is not the best candidate's, if there is one."""
        with self._lock:
            if self._near is None:
                self._near = self._scanned()
        others = self._near[self._near != best]
        if not len(others):
            return self._query
        prop = self._query.prop.single(int(others[number % len(others)]))
        return replace(self._query, prop=prop)

    def _scanned(self) -> Int[np.ndarray, "near"]:
        query = self._query
        points = hopped(_SCAN, query, self._arena.budget).points
        network = compiled(query.network, torch.float32)
        with torch.no_grad():
            outputs = network(network.tensor(points)).numpy()
        prop = query.prop
        return near_clauses(
            prop.clause_values(prop.row_margins(outputs)).min(axis=0, initial=np.inf)
        )


def near_clauses(margins: Float[np.ndarray, "K"]) -> Int[np.ndarray, "near"]:
    """Clauses whose margin is at most twice the least one, in ascending order of margin."""
    order = np.argsort(margins, kind="stable")
    return np.asarray(order[margins[order] <= _NEAR * margins.min(initial=np.inf)])


def _quickest(arena: Arena) -> Query:
    """The query about the reduced network where that is small, else as it was given."""
    units = arena.problem.units
    weights = units.weight.size + sum(layer.weight.size for layer in units.layers)
    return arena.problem.flat if weights <= _DENSE_WEIGHTS else arena.query
