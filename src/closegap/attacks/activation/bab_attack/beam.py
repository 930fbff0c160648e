"""Top-down beam search: one guided tree for each clause, the nearest clause first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.bab_attack.arena import Arena
from closegap.attacks.activation.bab_attack.dive import Domain
from closegap.attacks.activation.bab_attack.tree import GuidedTree, Plot, TreeOptions
from closegap.bounds.intermediate import NetworkBounds
from closegap.specs.query import Query
from closegap.verify.bab.problem import split_problem
from closegap.verify.bab.shared import SharedTree

__all__ = ["BeamSearch", "OnProof", "Shared"]

#: Told of a clause that cannot be met, and a proved lower bound of its margin.
OnProof: TypeAlias = Callable[[int, float], None]
#: The tree to grow in, of a query on these bounds, if there is one.
Shared: TypeAlias = Callable[[Query, NetworkBounds], SharedTree | None]

#: Of the nodes that the budget allows a tree, so many are for the beam where others grow it too.
_SHARE = 0.5


class BeamSearch:
    """Rounds of the tree of the clause that candidates came nearest to breaking.

    Where others grow a tree of the same units, it is that one, below the clause's root: the beam
    begins with what they left open, and leaves to them what it does not follow. A tree stops
    growing once it has as many subdomains as the budget allows. One that ends without a subdomain
    that was given up proves its clause.

    Args:
        options: of every tree.
        arena: of the attack.
        clauses: that are open; others get no tree.
        on_proof: told of every clause that is proved.
        shared: asked once, when the first tree is wanted; `None` for trees of its own.
    """

    def __init__(
        self,
        options: TreeOptions,
        arena: Arena,
        clauses: Sequence[int],
        on_proof: OnProof | None = None,
        shared: Shared | None = None,
    ) -> None:
        self._options = options
        self._arena = arena
        self._waiting = list(clauses)
        self._on_proof = on_proof
        self._ask = shared
        self._shared: SharedTree | None = None
        self._clause = -1
        self._tree: GuidedTree | None = None
        self._lock = threading.Lock()

    def step(self) -> None:
        """One round; rounds of several workers come one after the other."""
        with self._lock:
            if not self._arena.done:
                self._round()

    def domain(self) -> Domain | None:
        """A subdomain of the present beam, with its clause."""
        with self._lock:
            found = None if self._tree is None else self._tree.domain()
        return None if found is None else (self._clause, found)

    def _round(self) -> None:
        arena = self._arena
        if self._tree is None:
            if not self._waiting:
                arena.finished = True
                return
            self._tree = self._planted()
        nodes = arena.budget.nodes
        share = 1.0 if self._shared is None else _SHARE
        if nodes is not None and self._tree.accounting.created >= share * nodes:
            return
        self._tree.step(arena.budget)
        if self._tree.exhausted:
            self._harvest(self._tree)
            self._tree = None

    def _planted(self) -> GuidedTree:
        """The tree of the nearest clause that has none yet."""
        arena = self._arena
        starts = arena.starts(1)
        margins = arena.problem.margins(starts[0].point if starts else arena.problem.ground.center)
        self._clause = min(self._waiting, key=lambda clause: float(margins[clause]))
        self._waiting.remove(self._clause)
        majority = arena.pool.majority
        return GuidedTree(self._plot(), self._options, self._offer, majority, arena.random())

    def _plot(self) -> Plot:
        """Below the clause's root of the shared tree, if it is open; else a tree of its own."""
        asked = self._arena.problem
        if self._ask is not None:
            found, self._ask = self._ask(asked.query, asked.bounds), None
            fits = found is not None and found.rests_on(asked.bounds)
            self._shared = found if fits else None
        root = None if self._shared is None else self._shared.root(self._clause)
        if self._shared is not None and root is not None:
            return Plot(self._shared.problem, self._shared.tree, root)
        clause = np.array([self._clause])
        problem = split_problem(asked.query, asked.bounds, clause, budget=self._arena.budget)
        assert problem is not None  # its network is piecewise linear
        return Plot(problem)

    def _offer(self, points: NDArray[np.float64]) -> None:
        self._arena.polish(points.reshape(len(points), -1))

    def _harvest(self, tree: GuidedTree) -> None:
        if self._on_proof is not None and tree.accounting.balanced and tree.lower > 0:
            self._on_proof(self._clause, tree.lower)
