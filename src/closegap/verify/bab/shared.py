"""One tree that several searches grow in turn: what one leaves open, the others go on with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from closegap.bounds.intermediate import NetworkBounds
from closegap.search.tree import Tree
from closegap.verify.bab.problem import SplitProblem

__all__ = ["SharedTree"]


@dataclass(frozen=True, eq=False)
class SharedTree:
    """A problem and the tree over it. Searches may grow it one after the other, never at once.

    Every search keeps to this: it splits open nodes into both halves at units of the problem, and
    closes what is proved in float64 under the splits alone.

    Attributes:
        problem: its roots are clauses, its units are numbered by the bounds.
        bounds: of the activations' inputs over the region.
        tree: has no node before the first search begins.
    """

    problem: SplitProblem
    bounds: NetworkBounds
    tree: Tree = field(default_factory=Tree)

    def root(self, clause: int) -> int | None:
        """The number of a clause's root; `None` where it has none, or nothing is open below it."""
        self.tree.plant(len(self.problem.rows))
        roots = self.tree.root(self.tree.open_nodes())
        found = np.flatnonzero(self.problem.clauses == clause)
        return int(found[0]) if np.isin(found, roots).any() else None

    def rests_on(self, bounds: NetworkBounds) -> bool:
        """True iff the units are those of these bounds."""
        own, others = self.bounds.activations, bounds.activations
        return own is others or (
            own.keys() == others.keys()
            and all(
                torch.equal(own[i].lower, others[i].lower)
                and torch.equal(own[i].upper, others[i].upper)
                for i in own
            )
        )
