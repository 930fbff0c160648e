"""Nodes one by one: sweeps and certified programs, then a split."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from closegap.attacks.sparse.choice import Choice, Chooser, preferred
from closegap.attacks.sparse.leaves import Leaves
from closegap.attacks.sparse.lookout import Lookout
from closegap.attacks.sparse.nodes import Nodes, narrower
from closegap.attacks.sparse.options import SparseOptions
from closegap.attacks.sparse.planes import Proof, Ranges
from closegap.attacks.sparse.relaxation import Solved
from closegap.core.budget import Budget
from closegap.core.stopwatch import Stopwatch

__all__ = ["Visits"]

#: Programs of one node at most, each after its units' ranges shrank.
_LOOPS = 4


class Visits:
    """Bounds one node of a tree at a time.

    Args:
        options: the parts.
        leaves: of the tree.
        lookout: for nearer counterexamples.
        budget: of the tree.
        watch: told where the time goes.
    """

    def __init__(
        self,
        options: SparseOptions,
        leaves: Leaves,
        lookout: Lookout,
        budget: Budget,
        watch: Stopwatch,
    ) -> None:
        self._options = options
        self._leaves = leaves
        self._lookout = lookout
        self._budget = budget
        self._watch = watch
        self._chooser: Chooser | None = None

    def visit(self, nodes: Nodes, node: int) -> int | None:
        """Bound a node; close it, split it, or give it up.

        Returns:
            the child to visit next, where the order says so.
        """
        leaves, row = self._leaves, self._leaves.row(node)
        for _ in range(_LOOPS):
            ranges = leaves.ranges[node]
            with self._watch.part("programs"):
                solved, proof = nodes.solve(row, ranges, leaves.cutoff)
            if leaves.bounded(node, solved.lower):
                return None
            if self._budget.expired:
                return None
            with self._watch.part("candidates"):
                self._lookout.look(nodes, row, solved, ranges)
            if leaves.bounded(node, solved.lower):
                return None
            if proof is None or not self._improve(nodes, node, proof):
                break
            if node not in leaves.ranges:
                return None
        with self._watch.part("branching"):
            choice = self._choose(nodes, row, solved, leaves.ranges[node])
        if self._budget.expired:
            return None
        if choice is not None:
            return self._split(nodes, node, choice, solved)
        leaves.tree.give_up(np.array([node]))
        leaves.forget(node)
        return None

    def narrow(self, nodes: Nodes, node: int, margins: Sequence[Proof] = ()) -> bool:
        """Sweep over a node's units while that helps; True where it closes the node."""
        leaves, row = self._leaves, self._leaves.row(node)
        more = list(margins)
        for _ in range(self._options.sweeps if self._options.propagate or more else 0):
            with self._watch.part("propagation"):
                lower, proof = nodes.propagated(row, leaves.ranges[node])
            if leaves.bounded(node, lower):
                return True
            if self._budget.expired:
                return False
            with self._watch.part("sweeps"):
                before = leaves.ranges[node]
                after = nodes.swept(before, more or [proof])
            if after.empty:
                return leaves.bounded(node, nodes.ground.limit)
            leaves.ranges[node] = after
            if not narrower(after, before):
                break
            more = []
        return False

    def _improve(self, nodes: Nodes, node: int, proof: Proof) -> bool:
        """Narrow a node by what its program proved; True where another program is worth it."""
        leaves = self._leaves
        before = leaves.ranges[node]
        if self._options.reduced_costs:
            with self._watch.part("reduced costs"):
                # Not the cutoff: what is left may be bounded above it, what is cut off was not.
                leaves.ranges[node] = nodes.implied(proof, before, leaves.limit)
        if self._options.tighten and self.narrow(nodes, node, [proof]):
            return True
        return narrower(leaves.ranges[node], before)

    def _choose(self, nodes: Nodes, row: int, solved: Solved, ranges: Ranges) -> Choice | None:
        ground, cutoff = nodes.ground, self._leaves.cutoff
        if self._chooser is None:
            self._chooser = Chooser(self._options, ground.known.shape[1])

        def trial(unit: int, sign: int) -> float:
            if self._budget.expired:
                return -math.inf
            found = nodes.solve(row, ranges.split(unit, sign), cutoff)[0].lower
            return math.inf if found >= cutoff else found

        return self._chooser.choose(solved, ranges, ground.place, trial)

    def _split(self, nodes: Nodes, node: int, choice: Choice, solved: Solved) -> int | None:
        """Two children; what is known of them may close them at once."""
        leaves = self._leaves
        place = int(nodes.ground.place[choice.unit])
        ranges = leaves.ranges.pop(node)
        children = leaves.tree.split(np.array([node]), np.array([place]))
        live = []
        for child, sign in zip(children.tolist(), (1, -1), strict=True):
            leaves.ranges[child] = ranges.split(choice.unit, sign)
            known = min(choice.bounds.get(sign, -math.inf), leaves.cutoff)
            if not (leaves.bounded(child, known) or self.narrow(nodes, child)):
                live.append(child)
        return preferred(self._options, live, choice.unit, solved)
