"""A query written in what is undecided on its region, where bounds of neurons cost least.

Climbing on the bounds of a thousand undecided neurons takes tens of thousands of backward passes.
On the reduced network they are products of dense matrices, several times as fast as convolutions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from closegap.bounds.intermediate import NetworkBounds, tighten_activations
from closegap.bounds.interval import propagate
from closegap.bounds.optimise import AscentOptions, MixedPrecision
from closegap.bounds.records import ActivationBounds, Interval
from closegap.bounds.regions import input_set
from closegap.core.budget import Budget
from closegap.encode.condensed import condensed, pruned_network
from closegap.encode.reduced import ReducedNetwork
from closegap.graph import ops
from closegap.runtime.cache import compiled
from closegap.specs.query import Query
from closegap.specs.region import Ball, Box, Region, bounding_box
from closegap.verify.incomplete import LinearVerifier

__all__ = ["ReducedQuery", "climb_activations", "pruned_query", "reduced_query"]

#: Dense products may take so many times the products of a network: convolutions are slower ones.
_WORTH_CONVOLUTIONS = 8.0
_WORTH_DENSE = 0.7


@dataclass(frozen=True, eq=False)
class ReducedQuery:
    """The same question about the reduced network.

    Attributes:
        query: on the flat input; its verdicts are no verdicts of the file, its bounds are sound
            where `slack` is counted.
        bounds: of its feeding nodes, float64.
        slack: by node, see `BackwardPass`.
        origin: by feeding node, its feeding node in the original and flat places there.
    """

    query: Query
    bounds: NetworkBounds
    slack: Mapping[int, Tensor]
    origin: Mapping[int, tuple[int, Tensor]]

    def back(self, known: NetworkBounds, found: ActivationBounds) -> NetworkBounds:
        """What was found here, as bounds of the original network's activations.

        Args:
            known: of the original, those that this was made of.
            found: of this query's feeding nodes, under whatever they assume.
        """
        activations, values = dict(known.activations), list(known.values)
        for index, (feed, places) in self.origin.items():
            lower, upper = activations[feed].lower.clone(), activations[feed].upper.clone()
            for side, part in ((lower, found[index].lower), (upper, found[index].upper)):
                side.flatten(1)[:, places] = part
            activations[feed] = Interval(lower, upper)
            if len(values) > feed:
                values[feed] = activations[feed]
        return NetworkBounds(activations, values, known.complete)


def reduced_query(
    query: Query, known: NetworkBounds, budget: Budget, worth: float | None = None
) -> ReducedQuery | None:
    """Compose what is stable on the region.

    Args:
        query: on any network.
        known: bounds of its activations.
        budget: composing is given up when it ends.
        worth: how many times the original's products the dense ones may take; by default what
            makes them faster.

    Returns:
        `None` where that would not pay, or the budget ended.
    """
    network = query.network
    if worth is None:
        images = any(isinstance(n.op, ops.Conv | ops.ConvTranspose) for n in network.nodes)
        worth = _WORTH_CONVOLUTIONS if images else _WORTH_DENSE
    exact = compiled(network, torch.float64)
    region = input_set(exact, query.region)
    reach = np.asarray(Interval(region.lower, region.upper).magnitude.numpy()).reshape(-1)
    reduced = condensed(network, known.flat(), reach, worth=worth, budget=budget)
    return None if reduced is None or not reduced.origin else _about(query, reduced)


def pruned_query(query: Query, known: NetworkBounds) -> ReducedQuery | None:
    """A chain of dense ReLU layers without the neurons that are never positive, else `None`."""
    region = input_set(compiled(query.network, torch.float64), query.region)
    reach = np.asarray(Interval(region.lower, region.upper).magnitude.numpy()).reshape(-1)
    pruned = pruned_network(query.network, known.flat(), reach)
    return None if pruned is None else _about(query, pruned)


def _about(query: Query, reduced: ReducedNetwork) -> ReducedQuery:
    asked = Query(reduced.network, _flat(query.region), query.prop, query.name)
    small = compiled(reduced.network, torch.float64)
    bounds = reduced.intervals()
    return ReducedQuery(
        asked,
        NetworkBounds(bounds, propagate(small, input_set(small, asked.region), bounds)),
        reduced.slack_tensors(),
        {i: (feed, torch.as_tensor(places)) for i, (feed, places) in reduced.origin.items()},
    )


def climb_activations(
    linear: LinearVerifier, known: NetworkBounds, budget: Budget, options: AscentOptions
) -> NetworkBounds:
    """Climb on the slopes of every undecided neuron, on the reduced network where that pays.

    Args:
        linear: of the query.
        known: bounds that hold on the region.
        budget: what does not fit keeps its bounds.
        options: how to climb.
    """
    small = reduced_query(linear.query, known, budget)
    if small is None:
        return linear.activations(budget, known, options)
    inner = LinearVerifier(small.query)
    optimiser = MixedPrecision(inner.search, inner.search_region, options)
    found = tighten_activations(
        inner.exact, inner.exact_region, small.bounds, budget, optimiser,
        sorted(small.bounds.activations), small.slack,
    )  # fmt: skip
    return small.back(known, found.activations)


def _flat(region: Region) -> Region:
    box = bounding_box(region)
    flat = Box(box.lower.reshape(-1), box.upper.reshape(-1))
    if isinstance(region, Ball):
        return replace(region, box=flat, center=region.center.reshape(-1))
    return flat
