"""Octahedra around groups of neurons: bounds of all sums and differences of their inputs.

Source: Mueller et al., PRIMA, POPL 2022; Ferrari et al., ICLR 2022.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.backward import BackwardPass, lower_bound
from closegap.bounds.intermediate import rows_in_chunks
from closegap.bounds.multineuron.vertices import directions
from closegap.bounds.optimise import RowOptimiser
from closegap.bounds.regions import InputSet
from closegap.core.budget import Budget

__all__ = ["octahedra"]


def octahedra(
    bounder: BackwardPass,
    region: InputSet,
    feed: int,
    groups: Int[np.ndarray, "G k"],
    budget: Budget,
    optimiser: RowOptimiser | None = None,
) -> Float[np.ndarray, "G directions"]:
    """Upper bounds of `c . z` for every direction c, in the order of `directions`.

    Proved in the bounder's dtype, rounding subtracted. Directions that the budget cuts short get
    the sum of the single neurons' bounds, and no bound is looser than that sum.

    Args:
        bounder: of one region, with intervals for the rounding.
        region: in the same dtype.
        feed: the feeding node.
        groups: flat indices of its neurons.
        budget: deadline and memory.
        optimiser: improves the slopes of each row before it is bounded.
    """
    size = groups.shape[1]
    ways = torch.as_tensor(directions(size))
    interval = bounder.bounds[feed]
    members = torch.as_tensor(groups)
    lower, upper = interval.lower[0].flatten()[members], interval.upper[0].flatten()[members]
    limits = _summed(lower, upper, ways)
    mixed = (ways != 0).sum(dim=1) > 1
    places = torch.cartesian_prod(torch.arange(len(groups)), mixed.nonzero()[:, 0]).reshape(-1, 2)
    graph = bounder.network.network
    entries = max(node.size for node in graph.nodes[: feed + 1])
    for part in rows_in_chunks(places, entries, budget, bounder.network.dtype):
        if budget.expired:
            break
        rows = _rows(part, members, ways, graph.nodes[feed].shape)
        parameters = None
        if optimiser is not None:
            parameters = optimiser.parameters(bounder, feed, rows, budget)
        with torch.no_grad():
            found = -lower_bound(bounder, region, feed, rows, parameters)[0]
        limits[part[:, 0], part[:, 1]] = torch.minimum(limits[part[:, 0], part[:, 1]], found)
    return np.asarray(limits.numpy())


def _summed(lower: Tensor, upper: Tensor, ways: Tensor) -> Tensor:
    """Interval bounds `[G, directions]`, rounded up."""
    terms = torch.where(ways > 0, upper[:, None], torch.where(ways < 0, -lower[:, None], 0.0))
    total = terms[..., 0]
    for column in range(1, terms.shape[2]):
        total = torch.nextafter(total + terms[..., column], torch.full_like(total, torch.inf))
    single = (ways != 0).sum(dim=1) == 1
    return torch.where(single, terms.sum(dim=2), total)


def _rows(part: Tensor, members: Tensor, ways: Tensor, shape: tuple[int, ...]) -> Tensor:
    """`[1, rows, *shape]`: minus a direction at the members of a group."""
    rows = torch.zeros(len(part), prod(shape), dtype=ways.dtype)
    rows.scatter_(1, members[part[:, 0]], -ways[part[:, 1]])
    return rows.reshape(1, len(part), *shape)
