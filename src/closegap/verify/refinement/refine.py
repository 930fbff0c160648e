"""Bounds of every neuron of a dense ReLU chain by branch and bound, layer by layer.

Linear bounds of deep chains leave most late neurons undecided which have one sign on the whole
region: each layer's relaxations lose on the losses of those before. A tree of a neuron's own
decides it with tens or hundreds of leaves, a few milliseconds together, and every layer behind
starts from what was decided. What is proved holds on the whole region, for every property.

Source: intermediate bounds by mixed-integer programs, Tjeng et al., 2019, as in alpha-beta-CROWN's
"bab-refine"; here they are branch and bound with beta-CROWN's bounds (Wang et al., 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from closegap.bounds.intermediate import NetworkBounds
from closegap.bounds.records import ActivationBounds, Interval
from closegap.bounds.regions import InputSet, input_set
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.runtime.cache import compiled
from closegap.specs.query import Query
from closegap.specs.region import Ball
from closegap.verify.layered.dense import lost_by_rows
from closegap.verify.reduction import ReducedQuery, pruned_query
from closegap.verify.refinement.forest import Forest, ForestOptions
from closegap.verify.refinement.passes import RowPasses, Stage

__all__ = ["RefineOptions", "Refinement", "refine", "suits_refinement"]

#: Of the memory, this part (one in so many) is for leaves.
_MEMORY_SHARE = 4
#: Float32 multiplications and additions a second of one core, roughly; a layer whose roots alone
#: would take too long is left as it is.
_PRODUCTS_A_SECOND = 1e10


@dataclass(frozen=True)
class RefineOptions:
    """How to search.

    Attributes:
        trees: of every row.
    """

    trees: ForestOptions = field(default_factory=ForestOptions)


@dataclass(frozen=True, eq=False)
class Refinement:
    """What a sweep over the layers found.

    Attributes:
        bounds: of the original network, nowhere looser than they were.
        leaves: bounded on the way.
        decided: neurons that have one sign now and had not.
        undecided: neurons that have not.
    """

    bounds: NetworkBounds
    leaves: int
    decided: int
    undecided: int


def suits_refinement(query: Query) -> bool:
    """True iff the network is a chain of several dense ReLU layers, the region a box."""
    if isinstance(query.region, Ball) or len(query.network.activations) < 2:
        return False
    nodes = query.network.nodes
    return all(
        isinstance(node.op, ops.Input | ops.Linear | ops.Relu | ops.Reshape) for node in nodes
    )


def refine(
    query: Query, known: NetworkBounds, budget: Budget, options: RefineOptions
) -> Refinement | None:
    """One sweep over the layers, the first one first.

    Args:
        query: see `suits_refinement`.
        known: bounds that hold on the region.
        budget: each layer gets its part of the time that is left. Under a node limit trees are
            bounded by it instead of the clock.
        options: how to search.

    Returns:
        `None` where the network is no such chain, or nothing of it is undecided.
    """
    small = pruned_query(query, known) if suits_refinement(query) else None
    chain = None if small is None else _Chain.of(small)
    if small is None or chain is None:
        return None
    before, leaves = chain.undecided, 0
    for number in range(1, len(chain.feeds)):
        spend = budget.within(budget.remaining / (len(chain.feeds) - number))
        leaves += chain.refine(number, spend, options)
    found = {
        feed: Interval(low[None], high[None])
        for feed, low, high in zip(chain.feeds, chain.lower, chain.upper, strict=True)
    }
    bounds = small.back(known, found)
    return Refinement(bounds, leaves, before - chain.undecided, chain.undecided)


class _Chain:
    """Weights and bounds of every layer that feeds a ReLU."""

    def __init__(
        self,
        feeds: Sequence[int],
        region: InputSet,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        bounds: ActivationBounds,
    ) -> None:
        self.feeds = feeds
        self._region = region
        self._weights, self._biases = weights, biases
        self.lower = [bounds[feed].lower[0].clone() for feed in feeds]
        self.upper = [bounds[feed].upper[0].clone() for feed in feeds]
        self._most = [
            torch.maximum(low.abs(), high.abs())
            for low, high in zip(self.lower, self.upper, strict=True)
        ]
        self._reach = torch.maximum(region.lower.abs(), region.upper.abs())[0]

    @classmethod
    def of(cls, small: ReducedQuery) -> _Chain | None:
        """Of a pruned chain; `None` where layers are products of several matrices."""
        nodes, feeds = small.query.network.nodes, sorted(small.origin)
        if [i for i, node in enumerate(nodes) if isinstance(node.op, ops.Relu)] != [
            feed + 1 for feed in feeds
        ] or any(feed != 2 * place + 1 for place, feed in enumerate(feeds)):
            return None
        exact = compiled(small.query.network, torch.float64)
        weights = [exact.weights[feed] for feed in feeds]
        return cls(
            feeds,
            input_set(exact, small.query.region),
            [w["weight"] for w in weights],
            [w["bias"] for w in weights],
            small.bounds.activations,
        )

    @property
    def undecided(self) -> int:
        """Neurons whose sign is not known."""
        return sum(
            int(((low < 0) & (high > 0)).sum())
            for low, high in zip(self.lower, self.upper, strict=True)
        )

    def refine(self, number: int, budget: Budget, options: RefineOptions) -> int:
        """Bound a layer's undecided neurons; returns the leaves it took."""
        open_ = ((self.lower[number] < 0) & (self.upper[number] > 0)).nonzero()[:, 0]
        if not len(open_) or budget.expired:
            return 0
        stages, last = self._stages(number)
        products = 8 * len(open_) * options.trees.first * sum(s.weight.numel() for s in stages)
        if products > _PRODUCTS_A_SECOND * budget.remaining:
            return 0
        passes = RowPasses(stages, self._region, len(self.feeds))
        weight = self._weights[number][open_][:, last]
        forest = Forest(passes, weight, self._biases[number][open_], options.trees, budget)
        room = budget.memory // _MEMORY_SHARE
        while not budget.expired and forest.nbytes <= room and _within(budget, forest):
            if not forest.grow():
                break
        low, high = forest.bounds()
        low = torch.maximum(self.lower[number][open_], low)
        high = torch.minimum(self.upper[number][open_], high)
        fine = low <= high  # always, but for rounding
        self.lower[number][open_[fine]] = low[fine]
        self.upper[number][open_[fine]] = high[fine]
        return forest.size

    def _stages(self, number: int) -> tuple[list[Stage], Tensor]:
        """The layers before one, and which neurons of the last of them are left, in order."""
        stages, read, before = list[Stage](), torch.arange(len(self._reach)), self._reach
        for place in range(number):
            low, high, most = self.lower[place], self.upper[place], self._most[place]
            open_ = (~(low >= 0) & ~(high <= 0)).nonzero()[:, 0]  # NaN decides nothing
            left = torch.cat([open_, (low >= 0).nonzero()[:, 0]])
            weight, bias = self._weights[place][left][:, read], self._biases[place][left]
            chord = high[open_] / (high[open_] - low[open_])
            size = lost_by_rows(weight, bias, before, most[left], len(self.feeds))
            stages.append(Stage(weight, bias, chord, -chord * low[open_], most[left], size))
            read, before = left, most[left]
        return stages, read


def _within(budget: Budget, forest: Forest) -> bool:
    return budget.nodes is None or forest.size < budget.nodes
