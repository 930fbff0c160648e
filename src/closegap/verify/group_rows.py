"""Rows over groups of ReLUs for a clause's program, where its relaxation is off.

The relaxed program is solved; groups are made of the ReLUs at which its point is off the function
and the margin pays for it. Of each group the row that the point violates most is added, and the
program is solved again. Every row holds of every input, so rows change no verdict; they save nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array, vstack

from closegap.bounds.backward import BackwardPass
from closegap.bounds.interval import propagate
from closegap.bounds.multineuron.build import make_hulls
from closegap.bounds.multineuron.cover import correlated_pairs, sparse_cover
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.bounds.multineuron.vertices import GREATEST_GROUP
from closegap.bounds.multineuron.wrapping import wrapping_rows
from closegap.bounds.records import Interval
from closegap.bounds.regions import input_set
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.core.numerics import CUT_VIOLATION, FLOAT64_UNIT, SMALL_COEFFICIENT
from closegap.encode import Bounds, EncodedNetwork
from closegap.encode.builder import ModelBuilder
from closegap.encode.expression import place
from closegap.encode.units import SplitUnits
from closegap.graph import ops
from closegap.mip.model import Model, SolveOptions
from closegap.mip.registry import choose
from closegap.runtime.cache import compiled

__all__ = ["GroupRowOptions", "with_group_rows"]

#: Of the time, at most this share for all of it.
_SHARE = 0.1


@dataclass(frozen=True)
class GroupRowOptions:
    """Which rows are added.

    Attributes:
        rows: in each round, at most; none for zero.
        rounds: of solving the relaxation.
        size: neurons a group, from two to four.
        units: of each layer, the ReLUs considered.
        groups: a layer, at most.

    Raises:
        OptionError: groups of another size.
    """

    rows: int = 0
    rounds: int = 4
    size: int = 3
    units: int = 30
    groups: int = 100

    def __post_init__(self) -> None:
        if not 2 <= self.size <= GREATEST_GROUP:
            raise OptionError(f"groups have 2 to {GREATEST_GROUP} neurons, got {self.size}")


@dataclass(frozen=True, eq=False)
class _Layer:
    """Rows over one layer's groups, and the columns of their members' two parts, `[R, k]`."""

    cuts: HullCuts
    positive: Int[np.ndarray, "R k"]
    negative: Int[np.ndarray, "R k"]


def with_group_rows(
    encoded: EncodedNetwork, bounds: Bounds, options: GroupRowOptions, budget: Budget
) -> EncodedNetwork:
    """The same program with rows over groups, or as it was where nothing is violated.

    Args:
        encoded: a proof's program.
        bounds: that it was made with.
        options: how many, how large.
        budget: a tenth of what is left at most is used.

    Raises:
        MissingDependencyError: no solver for linear programs is installed.
    """
    part = budget.within(_SHARE * budget.remaining)
    matrix, limits = csr_array((0, encoded.model.columns)), np.zeros(0)
    for _ in range(options.rounds if options.rows else 0):
        point = _least(_extended(encoded.model, matrix, limits), part)
        if point is None:
            break
        if not len(limits):
            every = _all_rows(encoded, bounds, point, options, part)
            if not every[1].size:
                break
        chosen = _violated(*every, point, options.rows)
        if not len(chosen):
            break
        matrix = csr_array(_stacked(matrix, every[0][chosen]))
        limits = np.concatenate([limits, every[1][chosen]])
    return replace(encoded, model=_extended(encoded.model, matrix, limits))


def _stacked(first: csr_array, second: csr_array) -> csr_array:
    return csr_array(vstack([first, second], format="csr"))


def _extended(model: Model, matrix: csr_array, limits: Float[np.ndarray, "M"]) -> Model:
    """With rows `matrix @ columns >= limits`."""
    builder = ModelBuilder.of(model)
    builder.add_rows(matrix, limits, np.inf)
    return builder.build(model.cost, model.constant)


def _least(model: Model, budget: Budget) -> Float[np.ndarray, "V"] | None:
    """Where the relaxation is least; `None` where time is up."""
    if budget.expired:
        return None
    relaxed = replace(model, integer=np.zeros(model.columns, dtype=bool))
    solver, _ = choose("lp")
    options = SolveOptions(time_limit=budget.remaining, threads=budget.threads)
    return solver.solve(relaxed, options).point


def _violated(
    matrix: csr_array,
    limits: Float[np.ndarray, "R"],
    owner: Int[np.ndarray, "R"],
    point: Float[np.ndarray, "V"],
    most: int,
) -> Int[np.ndarray, "M"]:
    """The row that a point violates most of each group, those of the most violated groups."""
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).reshape(-1))
    off = (limits - matrix @ point) / np.maximum(length, FLOAT64_UNIT)
    order = np.argsort(-off, kind="stable")
    order = order[off[order] > CUT_VIOLATION]
    _, first = np.unique(owner[order], return_index=True)
    return np.asarray(order[np.sort(first)[:most]])


def _all_rows(
    encoded: EncodedNetwork,
    bounds: Bounds,
    point: Float[np.ndarray, "V"],
    options: GroupRowOptions,
    budget: Budget,
) -> tuple[csr_array, Float[np.ndarray, "R"], Int[np.ndarray, "R"]]:
    """Rows `matrix @ columns >= limits` over all groups, and whose they are."""
    matrices, limits, owners = [csr_array((0, encoded.model.columns))], [np.zeros(0)], 0
    every = [np.zeros(0, np.int64)]
    for layer in _layers(encoded, bounds, point, options, budget):
        matrix, limit = _written(layer, encoded.model)
        matrices.append(matrix)
        limits.append(limit)
        every.append(owners + np.asarray(layer.cuts.owner.numpy()))
        owners += len(layer.cuts.hulls.members)
    stacked = matrices[0]
    for matrix in matrices[1:]:
        stacked = _stacked(stacked, matrix)
    return stacked, np.concatenate(limits), np.concatenate(every)


def _written(layer: _Layer, model: Model) -> tuple[csr_array, Float[np.ndarray, "R"]]:
    """Over columns: `z = positive - negative` and `h = positive`; rounding widens the rows."""
    size = layer.positive.shape[1]
    normals = np.asarray(layer.cuts.normals.numpy())
    inner, outer = normals[:, :size], normals[:, size:]
    weights = np.concatenate([inner + outer, -inner], axis=1)
    columns = np.concatenate([layer.positive, layer.negative], axis=1)
    reach = np.maximum(np.abs(model.lower), np.abs(model.upper))[columns]
    moved = np.concatenate([np.abs(inner) + np.abs(outer), np.abs(inner)], axis=1)
    small = np.abs(weights) <= np.sqrt(SMALL_COEFFICIENT) * moved
    lost = np.where(small, np.abs(weights) + 4 * FLOAT64_UNIT * moved, 4 * FLOAT64_UNIT * moved)
    limits = np.asarray(layer.cuts.least.amin(dim=1).numpy()) - 2 * (lost * reach).sum(axis=1)
    rows = np.arange(len(weights)).repeat(2 * size)
    weights = np.where(small, 0.0, weights)
    shape = (len(weights), model.columns)
    matrix = place(rows, columns.reshape(-1), weights.reshape(-1), shape)
    matrix.eliminate_zeros()
    return matrix, limits


def _layers(
    encoded: EncodedNetwork,
    bounds: Bounds,
    point: Float[np.ndarray, "V"],
    options: GroupRowOptions,
    budget: Budget,
) -> Iterator[_Layer]:
    """Groups where the relaxation's point is off, layer by layer."""
    network = encoded.query.network
    exact = compiled(network, torch.float64)
    region = input_set(exact, encoded.query.region)
    known = {
        node: Interval(*(torch.as_tensor(s).reshape(1, *network.nodes[node].shape) for s in sides))
        for node, sides in bounds.items()
    }
    bounder = BackwardPass(exact, known, propagate(exact, region, known))
    output = network.nodes[network.output]
    prop = encoded.query.prop
    rows = torch.as_tensor(prop.rows[prop.clause == encoded.clause])
    with torch.no_grad():
        final = bounder.run(
            network.output, rows.reshape(1, len(rows), *output.shape), keep_incoming=True
        )
    for block in encoded.units:
        activation = _relu_of(encoded, block)
        if activation is None or not isinstance(block, SplitUnits) or budget.expired:
            continue
        paid = np.asarray(final.incoming[activation][0].abs().mean(dim=0).flatten().numpy())
        gap = np.minimum(point[block.positive], point[block.negative])
        losses = np.where(gap > CUT_VIOLATION, gap, 0.0) * paid[block.neurons]
        best = np.argsort(-losses, kind="stable")[: options.units]
        best = best[losses[best] > 0]
        size = min(options.size, len(best))
        if size < 2:
            continue
        inputs = np.asarray(block.expression.rows(best).matrix.toarray())
        span = encoded.model.upper - encoded.model.lower
        pairs = correlated_pairs(inputs * span[: inputs.shape[1]], losses[best])
        groups = best[sparse_cover(pairs, size, options.groups)]
        hulls = make_hulls(bounder, region, activation, block.neurons[groups], budget)
        cuts = wrapping_rows(hulls)
        members = groups[cuts.owner.numpy()]
        yield _Layer(cuts, block.positive[members], block.negative[members])


def _relu_of(encoded: EncodedNetwork, block: object) -> int | None:
    """The ReLU that a block of columns is about; `None` where it is about something else."""
    if not isinstance(block, SplitUnits):
        return None
    nodes, readers = encoded.query.network.nodes, encoded.query.network.consumers[block.node]
    found = [reader for reader in readers if isinstance(nodes[reader].op, ops.Relu)]
    return found[0] if found and len(readers) == 1 else None
