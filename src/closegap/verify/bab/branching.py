"""Choosing the units to split: BaBSR's estimate shortlists, a real bound of both children decides.

Source: De Palma et al., filtered smart branching, 2021; kFSB as in the beta-CROWN verifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.branching.babsr import babsr_scores, intercept_scores
from closegap.verify.bab.bounder import DomainBatch, DomainBounder, DomainResult
from closegap.verify.bab.problem import SplitProblem

__all__ = ["FilteredBranching", "shortlist"]


def shortlist(
    problem: SplitProblem, result: DomainResult, count: int
) -> Int[np.ndarray, "B candidates"]:
    """The best units by BaBSR's score and by intercept, `count` of each; -1 where there is none."""
    bias = torch.cat([layer.bias for layer in problem.layers])
    scores = babsr_scores(result.incoming, result.unit_lower, result.unit_upper, bias)
    losses = intercept_scores(result.incoming, result.unit_lower, result.unit_upper)
    open_ = (result.unit_lower < 0) & (result.unit_upper > 0)
    picked = []
    for table in (scores, losses):
        ranked = torch.where(open_, table, -1.0)
        values, places = ranked.topk(min(count, ranked.shape[1]), dim=1)
        picked.append(torch.where(values >= 0, places, -1))
    return np.asarray(torch.cat(picked, dim=1).numpy())


@dataclass(frozen=True)
class FilteredBranching:
    """kFSB: of the shortlist, the unit whose worse child gains most.

    Attributes:
        count: units shortlisted by each of the two estimates.
    """

    count: int = 3

    def rank(
        self,
        problem: SplitProblem,
        bounder: DomainBounder,
        batch: DomainBatch,
        result: DomainResult,
    ) -> Int[np.ndarray, "B candidates"]:
        """Units of each domain, best first, without repeats; -1 fills the rest."""
        units = shortlist(problem, result, self.count)
        domains, width = units.shape
        repeated = np.array(
            [
                np.isin(units[:, i], -1) | (units[:, :i] == units[:, i : i + 1]).any(1)
                for i in range(width)
            ]
        ).T
        gains = self._gains(bounder, batch, units)
        gains[repeated] = -np.inf
        order = np.argsort(-gains, axis=1, kind="stable")
        ranked = np.take_along_axis(units, order, axis=1)
        dropped = np.take_along_axis(repeated, order, axis=1)
        return np.where(dropped, -1, ranked).reshape(domains, width)

    def _gains(
        self, bounder: DomainBounder, batch: DomainBatch, units: Int[np.ndarray, "B candidates"]
    ) -> NDArray[np.float64]:
        """Least bound of both children of every candidate, ties broken by the greater one."""
        domains, width = units.shape
        which = np.repeat(np.arange(domains), width)
        flat, points = units.reshape(-1), np.zeros(units.size)
        children = [bounder.glance(batch.children(which, flat, sign, points)) for sign in (1, -1)]
        worse, better = np.minimum(*children), np.maximum(*children)
        return (worse + _TIE * better).reshape(domains, width)


#: Weight of the better child; enough to order candidates whose worse child gains nothing.
_TIE = 0.05
