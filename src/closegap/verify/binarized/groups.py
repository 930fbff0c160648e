"""Lower bounds of margins by enumeration: units of the last sign layer that share few open signs.

Behind the last sign layer a margin is a sum over its units. Units are put into groups whose open
signs before them are few, and every group takes the least that any pattern of these signs gives it.
The sum of these is a bound: an input has one pattern in every group. In a convolution a unit reads
a window, so a group holds all channels of neighbouring windows, and what they can do together is
far less than the sum of what each can do alone.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.numerics import gamma
from closegap.graph.binarized.linear_form import patch_matrix
from closegap.graph.binarized.records import BinarizedNetwork, SignLayer
from closegap.specs.property import Property

__all__ = ["group_bounds", "grouped"]

#: Open signs that the units of a group read together.
_MOST_SIGNS = 12
#: Sets of signs, above which no sets are united.
_MOST_SETS = 4096


def group_bounds(
    network: BinarizedNetwork, prop: Property, budget: Budget
) -> Float[np.ndarray, "Q"]:
    """Lower bounds of all rows of a property.

    Args:
        network: folded on the query's box (`graph.binarized.fold`), so that every sign is open.
        prop: the property.
        budget: deadline; groups that are not enumerated by then count as the sum of their units.
    """
    last = network.last
    slope = (prop.rows * last.factor) @ last.weight
    found = prop.rows @ (last.factor * last.bias + last.offset) + prop.offsets
    size = np.abs(prop.rows * last.factor) @ np.abs(last.weight).sum(axis=1)
    size += np.abs(prop.rows) @ (np.abs(last.factor * last.bias) + np.abs(last.offset))
    rounding = gamma(4 * (slope.shape[1] + prop.rows.shape[1] + 64)) * (size + np.abs(prop.offsets))
    if not network.hidden:
        return np.asarray(found - np.abs(slope).sum(axis=1) - rounding)
    layer = network.hidden[-1]
    weight = patch_matrix(layer.patches).toarray().T
    reads = (weight[layer.thresholds.taken] != 0).any(axis=1)
    sets, member = grouped(reads, _MOST_SIGNS, budget)
    for place, used in enumerate(sets):
        units, signs = np.flatnonzero(member == place), np.flatnonzero(used)
        if len(signs) <= _MOST_SIGNS and not budget.expired:
            values = _values(layer, weight, units, signs)
            found = found + (values @ slope[:, units].T).min(axis=0)
        else:
            found = found - np.abs(slope[:, units]).sum(axis=1)
    return np.asarray(found - rounding)


def grouped(
    reads: Bool[np.ndarray, "U E"], most: int, budget: Budget
) -> tuple[Bool[np.ndarray, "G E"], Int[np.ndarray, "U"]]:
    """Sets of signs, each with the units that read nothing else.

    Two sets become one while they overlap and have `most` signs together, in pairs of which each is
    the other's best; sets that one unit alone makes larger stay.

    Args:
        reads: the signs that each unit reads.
        most: signs of a united set.
        budget: deadline, after which no more sets are united.

    Returns:
        the sets, and the set of each unit.
    """
    sets, member = np.unique(reads, axis=0, return_inverse=True)
    member = member.reshape(-1)
    while 1 < len(sets) <= _MOST_SETS and not budget.expired:
        counts = sets.astype(np.float32)
        common = counts @ counts.T
        sizes = np.diag(common)
        union = sizes[:, None] + sizes - common
        score = np.where(union <= most, common / np.maximum(union, 1), 0.0)
        np.fill_diagonal(score, 0.0)
        partner = score.argmax(axis=1)
        order = np.arange(len(sets))
        paired = (score[order, partner] > 0) & (partner[partner] == order)
        if not paired.any():
            break
        head = np.where(paired, np.minimum(order, partner), order)
        kept, place = np.unique(head, return_inverse=True)
        united = sets[kept] | np.where(paired[kept, None], sets[partner[kept]], False)
        sets, member = united, place.reshape(-1)[member]
    return sets, member


def _values(
    layer: SignLayer,
    weight: Float[np.ndarray, "S E"],
    units: Int[np.ndarray, "u"],
    signs: Int[np.ndarray, "k"],
) -> NDArray[np.float64]:
    """The units' signs under every pattern of the signs they read, `[2^k, u]`."""
    bits = (np.arange(1 << len(signs))[:, None] >> np.arange(len(signs))) & 1
    thresholds = layer.thresholds
    taken, place = np.unique(thresholds.taken[units], return_inverse=True)
    sums = (2.0 * bits - 1.0) @ weight[np.ix_(taken, signs)].T
    met = thresholds.sense[units] * sums[:, place.reshape(-1, thresholds.taken.shape[1])]
    met = met >= thresholds.low[units]
    some = thresholds.any_of[units]
    return np.where(np.where(some, met.any(axis=2), met.all(axis=2)), 1.0, -1.0)
