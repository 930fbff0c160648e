"""Rows that others found, for a tree to go on with: linear cuts over the original network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch

from closegap.bounds.constraints import CutPart, LinearCuts
from closegap.verify.bab.bounder import DomainBatch
from closegap.verify.bab.constraints import DomainConstraints
from closegap.verify.bab.multineuron import JointRows, widened
from closegap.verify.bab.problem import SplitProblem

__all__ = ["GivenRows", "with_given"]

#: Rows of all clauses together: each costs a product with all that rows read, in every domain.
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
    found = [(g.clause, _translated(problem, g.cuts, _MOST_ROWS // len(given))) for g in given]
    sets = [(clause, cuts) for clause, cuts in found if cuts is not None]
    if not sets:
        return None
    more = np.concatenate([np.full(cuts.size, clause) for clause, cuts in sets])
    own = problem.clauses[batch.root][:, None] == more
    payload = widened(batch, problem.rows.shape[1], before, own.astype(np.float32))
    held = DomainConstraints.of(*before.exact, *(cuts for _, cuts in sets))
    columns = np.arange(held.width)
    return JointRows(held, replace(batch, payload=payload), columns, before.width)


def _translated(problem: SplitProblem, cuts: LinearCuts, most: int) -> LinearCuts | None:
    """Over the problem's own nodes, the longest; rows about other neurons are left out."""
    nodes = problem.exact.network.nodes
    lost, size = torch.zeros(cuts.size, dtype=torch.bool), torch.zeros(cuts.size)
    parts = []
    for part in cuts.parts:
        node, place = problem.places.get(part.node, (0, torch.full((prod(part.shape),), _NONE)))
        found = place[part.neurons]
        lost |= part.weights[:, found == _NONE].any(dim=1)
        kept = found >= 0
        weights, neurons = part.weights[:, kept], found[kept]
        reach = problem.values[node].magnitude.flatten()[neurons]
        size = size + weights.abs() @ reach
        parts.append(CutPart(node, nodes[node].shape, neurons, weights))
    rows = (~lost).nonzero()[:, 0]
    if not len(rows):
        return None
    rows = rows[size[rows].argsort(descending=True)[:most]].sort().values
    return LinearCuts(tuple(parts), cuts.limits, cuts.scale).part(rows)
