"""The tree of least distances as a solver: at once, or in turns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import OnNearer
from closegap.attacks.minimal.settle import Settling, kept_for_settling
from closegap.attacks.sparse.answer import SparseAnswer
from closegap.attacks.sparse.incumbent import Incumbent, OnProved, unheard
from closegap.attacks.sparse.options import OURS, SparseOptions
from closegap.attacks.sparse.staged import StagedSearch
from closegap.core.budget import Budget
from closegap.specs.distance import DistanceQuery

__all__ = ["SparseTree"]


class SparseTree:
    """Brackets the least distance to a counterexample.

    Args:
        options: the parts.
    """

    def __init__(self, options: SparseOptions = OURS) -> None:
        self.options = options

    def run(
        self,
        query: DistanceQuery,
        budget: Budget,
        judge: OnNearer,
        starts: Sequence[NDArray[np.floating]] = (),
        prove: OnProved = unheard,
    ) -> SparseAnswer:
        """Search until everything is closed or the budget ends.

        Args:
            query: on a network of ReLUs and leaky ReLUs.
            budget: deadline, nodes and seed.
            judge: says of a float32 point whether it is a counterexample.
            starts: points that may be counterexamples.
            prove: told of every better lower end.

        Raises:
            SoundnessError: a proof and a counterexample exclude each other.
        """
        incumbent = Incumbent(query, judge, prove)
        before = kept_for_settling(budget) if self.options.settle else budget
        search = StagedSearch(self.options, query, before, incumbent)
        if not search.clean():
            search.begin(starts)
            search.grow()
            if self.options.settle:
                found = Settling().run(query, incumbent.best, budget, incumbent.counts)
                search.offer(found.point)
        return search.answer()
