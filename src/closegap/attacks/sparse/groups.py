"""Groups of units that are bounded together, and rows that cut off what nodes' bounds rest on.

The sums and differences of a group's pre-activations are bounded wherever an input counts: on the
ground's ball, of whatever norm, not on a box alone. The hull of the group's inputs and outputs over
that octahedron is known by its vertices; only rows are kept that a bound leans on.
Source: Mueller et al., PRIMA (2022); Ferrari et al., Complete verification via multi-neuron
relaxation guided branch-and-bound (2022).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.ascent import Resting
from closegap.attacks.sparse.currents import Currents
from closegap.attacks.sparse.options import GroupOptions
from closegap.attacks.sparse.planes import Functions, Planes, Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.attacks.sparse.sweep import lowered
from closegap.bounds.multineuron.build import lifted_hulls, separating_cuts
from closegap.bounds.multineuron.cover import correlated_pairs, sparse_cover
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.hulls import VertexHulls
from closegap.bounds.multineuron.vertices import directions
from closegap.core.budget import Budget
from closegap.core.numerics import gamma

__all__ = ["group_hulls", "octahedra_within", "separated"]

Array = NDArray[np.float64]

#: Fewer units are no group.
_SMALLEST = 2
#: Planes that are made at a time.
_TOGETHER = 256


def group_hulls(
    planes: Planes,
    reach: Reach,
    ranges: Ranges,
    losses: Float[np.ndarray, "U"],
    options: GroupOptions,
    budget: Budget,
) -> tuple[VertexHulls, ...]:
    """Hulls of groups of units, layer by layer.

    Args:
        planes: of the ground.
        reach: a region that holds every input that counts.
        ranges: of the units there, `[U]`.
        losses: what bounds lose at each unit.
        options: how many, how large.
        budget: layers that its deadline leaves out have none.
    """
    found = []
    for number in range(len(planes.ground.layers)):
        groups = _groups(planes, ranges, losses, number, options)
        if not len(groups) or budget.expired:
            continue
        limits = octahedra_within(planes, reach, ranges, groups, number)
        sound = np.isfinite(limits).all(axis=1)
        slopes, units = planes.ground.slope[groups], planes.ground.units
        try:
            hulls = lifted_hulls(limits[sound], groups[sound], slopes[sound], (0, 1), (units,))
        except ValueError:  # bounds that exclude each other: nothing there counts
            continue
        found.append(hulls)
    return tuple(found)


def separated(hulls: VertexHulls, rest: Resting, most: int) -> HullCuts | None:
    """Rows that cut off what nodes' bounds rest on; `None` where they cut off nothing.

    Args:
        hulls: of groups.
        rest: where the bounds rest, M nodes.
        most: rows, about.
    """
    inputs, outputs, prices = (
        torch.as_tensor(side.astype(np.float64))
        for side in (rest.inputs, rest.outputs, rest.prices)
    )
    return separating_cuts(hulls, inputs, outputs, prices, max(1, most // len(inputs)))


def _groups(
    planes: Planes, ranges: Ranges, losses: Array, number: int, options: GroupOptions
) -> Int[np.ndarray, "G k"]:
    """Groups of one layer's units."""
    layer = planes.ground.layers[number]
    here = np.where(ranges.free[layer], losses[layer], 0.0)
    best = np.argsort(-here, kind="stable")[: options.units]
    best = best[here[best] > 0]
    size = min(options.size, len(best))
    if size < _SMALLEST:
        return np.zeros((0, _SMALLEST), dtype=np.int64)
    units = layer.start + best
    functions = _combined(planes, np.ones((len(units), 1)), units[:, None])
    lines = planes.proof(functions, planes.propagated(functions, ranges, number), ranges).slopes
    room = planes.ground.upper - planes.ground.lower
    cover = sparse_cover(correlated_pairs(lines * room, here[best]), size, options.groups)
    return np.asarray(units[cover], dtype=np.int64)


def octahedra_within(
    planes: Planes, reach: Reach, ranges: Ranges, groups: Int[np.ndarray, "G k"], number: int
) -> Float[np.ndarray, "G directions"]:
    """Upper bounds of `c . z` for every direction c, wherever an input counts.

    Args:
        planes: of the ground.
        reach: a region that holds every input that counts.
        ranges: of the units there, `[U]`.
        groups: of units of one layer.
        number: of the layer.

    Returns:
        in the order of `directions`; none is looser than the sum of the units' ranges.
    """
    ways = directions(groups.shape[1])
    limits = _summed(ranges.low[groups], ranges.high[groups], ways)
    mixed = np.flatnonzero((ways != 0).sum(axis=1) > 1)
    group, way = (side.ravel() for side in np.meshgrid(np.arange(len(groups)), mixed))
    currents = Currents(reach, len(group))
    for first in range(0, len(group), _TOGETHER):
        some = slice(first, first + _TOGETHER)
        functions = _combined(planes, -ways[way[some]], groups[group[some]])
        proof = planes.proof(functions, planes.propagated(functions, ranges, number), ranges)
        numbers = np.arange(len(group))[some]
        least = lowered(currents.least(proof.slopes, numbers), proof, planes.ground.reach)
        at = group[some], way[some]
        limits[at] = np.fmin(limits[at], -least)
    return limits


def _combined(
    planes: Planes, weights: Float[np.ndarray, "N k"], units: Int[np.ndarray, "N k"]
) -> Functions:
    """Sums of units' pre-activations with weights of -1, 0 and 1, their rounding counted."""
    ground = planes.ground
    rows = np.zeros((len(units), ground.weight.shape[1]))
    offsets, slack, size = (np.zeros(len(units)) for _ in range(3))
    for member in range(units.shape[1]):
        unit, weight = units[:, member], weights[:, member]
        rows += weight[:, None] * ground.weight[unit]
        offsets += weight * ground.bias[unit]
        slack += np.abs(weight) * ground.slack[unit]
        read = np.abs(ground.weight[unit]) @ ground.reach + np.abs(ground.bias[unit])
        size += np.abs(weight) * read
    return Functions(rows, offsets, slack * (1 + gamma(16)) + 2 * gamma(units.shape[1] + 8) * size)


def _summed(low: Array, high: Array, ways: Array) -> Array:
    """What ranges alone say `[G, directions]`, rounded up."""
    terms = np.where(ways > 0, high[:, None], np.where(ways < 0, -low[:, None], 0.0))
    total = terms[..., 0]
    for column in range(1, terms.shape[2]):
        total = np.nextafter(total + terms[..., column], np.inf)
    single = (ways != 0).sum(axis=1) == 1
    return np.where(single, terms.sum(axis=2), total)
