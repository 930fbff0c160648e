"""A binarized network on a box: signs that the box fixes are folded into the layers behind.

What is left of a convolution is small and dense. Everything stays exact: sums of fixed signs are
integers and move thresholds; what the last layer adds is rounded once.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.graph.binarized.first_layer import fixed_signs, sum_bounds
from closegap.graph.binarized.intervals import interval_layer
from closegap.graph.binarized.records import (
    BinarizedNetwork,
    LastLayer,
    Patches,
    SignLayer,
    Thresholds,
)

__all__ = ["folded"]


def folded(
    network: BinarizedNetwork,
    lower: Float[np.ndarray, "D"],
    upper: Float[np.ndarray, "D"],
    most_entries: int,
) -> BinarizedNetwork | None:
    """The network of the signs that are open: on the box its outputs are the same.

    Args:
        network: in exact form.
        lower, upper: the box, flat.
        most_entries: of the dense weights of a layer, and of those that a layer has by itself,
            half as many.

    Returns:
        the smaller network; `None` where a layer has more entries.
    """
    whole = [layer.patches.sums * layer.patches.gather.shape[1] for layer in network.hidden]
    if 2 * max(whole, default=0) > most_entries:
        return None
    first = network.first
    known = fixed_signs(first, sum_bounds(first, lower, upper)).astype(np.int64)
    hidden, kept = [], _units(first.thresholds, np.flatnonzero(known == 0))
    for layer in network.hidden:
        after = interval_layer(layer).signs(known[None])[0].astype(np.int64)
        open_ = np.flatnonzero(after == 0)
        sums = np.unique(layer.thresholds.taken[open_])
        if np.count_nonzero(known == 0) * len(sums) > most_entries:
            return None
        hidden.append(_layer(layer, known, open_, sums))
        known = after
    last = network.last
    fixed = np.flatnonzero(known)
    bias = [
        math.fsum([bias, *(row[fixed] * known[fixed]).tolist()])
        for bias, row in zip(last.bias.tolist(), last.weight, strict=True)
    ]
    return replace(
        network,
        first=replace(first, thresholds=kept),
        hidden=tuple(hidden),
        last=LastLayer(last.weight[:, known == 0], np.array(bias), last.factor, last.offset),
    )


def _units(thresholds: Thresholds, which: NDArray[np.int64]) -> Thresholds:
    return replace(
        thresholds,
        taken=thresholds.taken[which],
        sense=thresholds.sense[which],
        low=thresholds.low[which],
        high=thresholds.high[which],
        which=thresholds.which[which],
        any_of=thresholds.any_of[which],
    )


def _layer(
    layer: SignLayer,
    known: Int[np.ndarray, "E"],
    open_: Int[np.ndarray, "U"],
    sums: NDArray[np.int64],
) -> SignLayer:
    """The open units of a layer behind open signs; `sums` are those that the units read."""
    matrix = csr_array(interval_layer(layer).matrix[:, sums])
    added = np.asarray(matrix.T @ known)
    weight = matrix[known == 0].toarray().T.astype(np.float64)
    units = _units(layer.thresholds, open_)
    place = np.searchsorted(sums, units.taken)
    edges = units.low - units.sense * added[place]
    distinct, which = np.unique(edges, return_inverse=True)
    exact = tuple(Fraction(edge) if math.isfinite(edge) else None for edge in distinct.tolist())
    thresholds = replace(
        units, taken=place, low=edges, high=edges, exact=exact, which=which.reshape(edges.shape)
    )
    patches = _patches(weight)
    fan_in = np.count_nonzero(patches.weight, axis=1).astype(layer.fan_in.dtype)
    return SignLayer(patches, thresholds, fan_in)


def _patches(weight: Float[np.ndarray, "S E"]) -> Patches:
    """Dense sums with integer weights; an entry of weight 2 is read twice."""
    times = np.abs(weight).max(axis=0, initial=1.0).astype(np.int64)
    gather = np.repeat(np.arange(len(times)), times)
    turn = np.arange(len(gather)) - (np.cumsum(times) - times)[gather]
    unit = np.sign(weight[:, gather]) * (np.abs(weight[:, gather]) > turn)
    return Patches(gather[None], unit, len(times))
