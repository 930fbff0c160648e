"""Rows that others found, for a tree to go on with: linear cuts over the original network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch

from closegap.bounds.constraints import CutPart, LinearCuts
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.multineuron import JointRows, widened
from closegap.verify.bab.owned import OwnedCuts
from closegap.verify.bab.problem import SplitProblem

__all__ = ["GivenRows", "with_given"]

#: Rows of a clause: each costs a product with what it reads, in every domain of that clause.
_MOST_ROWS = 1000
#: Where `SplitProblem.places` has no value.
_NONE = -1


@dataclass(frozen=True, eq=False)
class GivenRows:
    """Rows that hold on the region, made so that one clause's bound wants each with multiplier 1.

    Attributes:
        clause: which one.
        cuts: over nodes of the original network.
    """

    clause: int
    cuts: LinearCuts


def with_given(
    problem: SplitProblem,
    batch: DomainBatch,
    before: DomainConstraints,
    given: Sequence[GivenRows],
) -> JointRows | None:
    """The rows from before, and those that are given.

    Args:
        problem: whose roots they are for.
        batch: domains, with starts that know the rows from before.
        before: these rows.
        given: rows for some of the roots.

    Returns:
        `None` where no row is about this problem's units alone.
    """
    cuts: dict[int, LinearCuts] = {}
    for rows in given:
        for root in np.flatnonzero(problem.clauses == rows.clause).tolist():
            found = _translated(problem, rows.cuts)
            if found is not None:
                cuts[root] = found
    if not cuts:
        return None
    more = OwnedCuts.of(cuts)
    own = np.array([cuts[root].size if root in cuts else 0 for root in batch.root.tolist()])
    ones = (np.arange(more.size) < own[:, None]).astype(np.float32)
    payload = widened(batch, problem.rows.shape[1], before, ones)
    held = DomainConstraints.of(*before.exact, more)
    columns = np.arange(held.width)
    return JointRows(held, replace(batch, payload=payload), columns, before.width)


def _translated(problem: SplitProblem, cuts: LinearCuts) -> LinearCuts | None:
    """Over the problem's own nodes, the longest; rows about other neurons are left out."""
    nodes = problem.exact.network.nodes
    lost, size = torch.zeros(cuts.size, dtype=torch.bool), torch.zeros(cuts.size)
    parts = []
    for part in cuts.parts:
        node, place = problem.places.get(part.node, (0, torch.full((prod(part.shape),), _NONE)))
        found = place[part.neurons]
        row, column = part.weights.indices()
        lost[row[(found == _NONE)[column]]] = True
        kept = (found >= 0).nonzero()[:, 0]
        weights, neurons = part.weights.index_select(1, kept).coalesce(), found[kept]
        reach = problem.values[node].magnitude.flatten()[neurons]
        size = size + weights.abs() @ reach
        parts.append(CutPart(node, nodes[node].shape, neurons, weights))
    rows = (~lost).nonzero()[:, 0]
    if not len(rows):
        return None
    rows = rows[size[rows].argsort(descending=True)[:_MOST_ROWS]].sort().values
    return LinearCuts(tuple(parts), cuts.limits, cuts.scale).part(rows)
