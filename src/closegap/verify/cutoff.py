"""Bounds under the assumption that a clause is broken: contradictions prove it.

Every counterexample of a clause has margins that are not positive. Bounds that hold for such inputs
alone are much tighter than those of the whole region wherever the clause nearly holds, and each
tightened layer tightens the others. Where they contradict themselves, or make a margin positive,
no counterexample is left. What is found here says nothing about inputs that keep the property.

Source: Kotha et al., Provably bounding neural network preimages, NeurIPS 2023; the same idea is
bound tightening with an objective cutoff in mixed-integer programming.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.intermediate import NetworkBounds, tighten_activations
from closegap.bounds.interval import propagate
from closegap.bounds.optimise import AscentOptions, MixedPrecision, Splits, WarmStarts
from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.graph.network import Network, Node
from closegap.graph.ops import Linear, Reshape
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.verify.incomplete import LinearVerifier

__all__ = ["CutoffOptions", "CutoffSearch", "margin_query"]


@dataclass(frozen=True)
class CutoffOptions:
    """How hard to try one clause.

    Attributes:
        neurons: climbing on the bounds of undecided neurons; each sweep goes on from the last one.
        margin: climbing on the clause's rows between rounds.
        rounds: at most so many; each sweeps over the last layer, the last two, four, ... all.
        least_gain: a round that raises the margin's bound by less than this share of its distance
            to zero is the last one.
        pace: a clause is left once the time, at this many times its mean rate so far, would not
            bring its bound to zero; infinity leaves none for that.
    """

    neurons: AscentOptions = field(
        default_factory=lambda: AscentOptions(
            iterations=10, slope_rate=0.25, split_rate=0.25, decay=0.95, patience=5
        )
    )
    margin: AscentOptions = field(default_factory=lambda: AscentOptions(iterations=40))
    rounds: int = 12
    least_gain: float = 0.1
    pace: float = 4.0


#: Of the memory, this part (one in so many) is for parameters between sweeps.
_WARM_SHARE = 4


class CutoffSearch:
    """One clause of a query, and the bounds that hold wherever it is broken.

    Args:
        query: what to decide; the indices of its network's nodes are kept.
        clause: which clause.
        known: bounds of the whole region.
        options: how hard to try.
        slack: by node, see `BackwardPass`.

    Attributes:
        bounds: of every activation's input at the clause's counterexamples.
        refuted: there are none: the clause's margin is positive on the whole region.
        guide: a lower bound of the margin at counterexamples; up to zero it is one everywhere.
        sweeps: how many were made to their end.
    """

    def __init__(
        self,
        query: Query,
        clause: int,
        known: NetworkBounds,
        options: CutoffOptions,
        slack: Mapping[int, Tensor] | None = None,
    ) -> None:
        self._options = options
        self._slack = slack or {}
        self._linear = LinearVerifier(margin_query(query, clause), slack=slack)
        self._rows = np.arange(self._linear.query.network.output_size)
        exact, region = self._linear.exact, self._linear.exact_region
        values = propagate(exact, region, known.activations)
        self.bounds = NetworkBounds(known.activations, values, known.complete)
        self.refuted = False
        self.guide = -np.inf
        self.sweeps = 0
        self._warm: WarmStarts | None = None

    def run(self, budget: Budget) -> None:
        """Sweep until the clause is refuted, is gained on too slowly, or the budget ends."""
        self._warm = WarmStarts(budget.memory // _WARM_SHARE)
        self._check(budget)
        first, seconds = self.guide, budget.remaining
        depth = len(self.bounds.activations)
        for _ in range(self._options.rounds):
            before = self.guide
            for layers in _waves(depth):
                if self.refuted or budget.expired:
                    return
                self._tighten(layers, budget)
                self.sweeps += not budget.expired
                self._check(budget)
                if self._too_slow(self.guide - first, seconds - budget.remaining, budget):
                    return
            if self.guide - before < self._options.least_gain * abs(before):
                return

    def _too_slow(self, gained: float, spent: float, budget: Budget) -> bool:
        """Whether the gap would outlast the budget, even if gains came `pace` times as fast.

        Gains of shallow networks shrink from sweep to sweep, those of deep ones may grow. Without a
        deadline nothing is too slow: what is not finite compares as false.
        """
        return self._options.pace * gained * budget.remaining < -self.guide * spent

    def _tighten(self, layers: int, budget: Budget) -> None:
        """Bound the neurons of the last few layers, the last one first."""
        linear, count = self._linear, len(self._rows)
        nodes = sorted((i for i in self.bounds.activations if i > 0), reverse=True)[:layers]
        zeros = torch.zeros(1, 1, count)
        least = torch.full_like(zeros, -torch.inf)
        scale = 1.0 / max(abs(self.guide), TINY) if np.isfinite(self.guide) else 1.0
        cutoff = {linear.query.network.output: Splits(least, zeros, zeros, scale)}
        optimiser = MixedPrecision(
            linear.search, linear.search_region, self._options.neurons, cutoff, self._warm
        )
        self.bounds = tighten_activations(
            linear.exact, linear.exact_region, self.bounds, budget, optimiser, nodes, self._slack
        )
        self.refuted = self.bounds.empty

    def _check(self, budget: Budget) -> None:
        """Bound the margin itself with what is known."""
        if self.refuted:
            return
        found = self._linear.rows(self.bounds, budget, self._rows, self._options.margin)
        self.guide = max(self.guide, float(found.lower.max()))
        self.refuted = self.guide > 0


def _waves(depth: int) -> list[int]:
    """1, 2, 4, ..., depth: late layers are small, and what they gain helps the ones before."""
    return [*(2**k for k in range(depth.bit_length()) if 2**k < depth), depth]


def margin_query(query: Query, clause: int) -> Query:
    """The same question about one clause, of a network whose outputs are the clause's margins."""
    source, prop = query.network, query.prop
    which: NDArray[np.int64] = np.flatnonzero(prop.clause == clause)
    nodes = list(source.nodes)
    if len(nodes[-1].shape) != 1:
        nodes.append(Node(Reshape(), (len(nodes) - 1,), (source.output_size,), "outputs"))
    op = Linear(prop.rows[which], prop.offsets[which])
    nodes.append(Node(op, (len(nodes) - 1,), (len(which),), "margins"))
    network: Network = replace(source, nodes=tuple(nodes), softmax_dropped=False)
    margins = Property(
        rows=np.eye(len(which)),
        offsets=np.zeros(len(which)),
        clause=np.zeros(len(which), np.int64),
        strict=prop.strict,
        names=(prop.names[clause],),
    )
    return replace(query, network=network, prop=margins)
