"""The exact least margin of a tiny network, by enumerating its linear regions.

An oracle for tests. It shares nothing with the encoder: affine nodes become dense matrices by
running them on unit vectors, and every activation decision is a branch with its own linear program
(scipy's), pruned as soon as it is infeasible.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.optimize import linprog

from closegap.core.errors import EncodingError
from closegap.core.numerics import gamma
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.runtime.torch_network import TorchNetwork, forward_node
from closegap.specs.query import Query
from closegap.specs.region import Ball, bounding_box

__all__ = [
    "Piece",
    "Region",
    "clause_margin",
    "interval_bounds",
    "least_clause_margin",
    "linear_pieces",
]


@dataclass(frozen=True, eq=False)
class Piece:
    """`matrix @ x + constant`: a node's value on one linear region."""

    matrix: Float[np.ndarray, "N D"]
    constant: Float[np.ndarray, "N"]


@dataclass(frozen=True, eq=False)
class Region:
    """The part of a box where `rows @ x <= limits`; an l1 ball adds a distance column each."""

    lower: Float[np.ndarray, "D"]
    upper: Float[np.ndarray, "D"]
    rows: Float[np.ndarray, "R D"]
    limits: Float[np.ndarray, "R"]

    def cut(self, row: NDArray[np.float64], limit: float) -> Region:
        """The part with `row . x <= limit`."""
        return replace(self, rows=np.vstack([self.rows, row]), limits=np.append(self.limits, limit))

    def least(self, row: NDArray[np.float64]) -> float:
        """Least `row . x` in the region; infinity where it is empty."""
        result = linprog(
            row,
            A_ub=self.rows if len(self.rows) else None,
            b_ub=self.limits if len(self.rows) else None,
            bounds=list(zip(self.lower, self.upper, strict=True)),
            method="highs",
        )
        return math.inf if result.status or result.fun is None else float(result.fun)


def clause_margin(query: Query, clause: int, points: NDArray[np.floating]) -> NDArray[np.float64]:
    """The clause's margins at points `[B, *input shape]`, by the float64 network: `[B]`."""
    network = TorchNetwork(query.network, dtype=torch.float64)
    with torch.no_grad():
        outputs = network(network.tensor(points)).numpy()
    return np.asarray(query.prop.clause_values(query.prop.row_margins(outputs))[:, clause])


def interval_bounds(query: Query) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Interval bounds of every pre-activation, flattened; affine nodes are rounded outward."""
    network = query.network
    box = bounding_box(query.region)
    low, high = {0: box.lower.reshape(-1)}, {0: box.upper.reshape(-1)}
    for index, node in enumerate(network.nodes[1:], start=1):
        if node.is_activation:
            shape = network.nodes[node.inputs[0]].shape
            low[index] = _activation(node.op, low[node.inputs[0]], shape)
            high[index] = _activation(node.op, high[node.inputs[0]], shape)
            continue
        matrices, constant = _dense(network, index)
        low[index], high[index] = constant.copy(), constant.copy()
        for matrix, parent in zip(matrices, node.inputs, strict=True):
            positive, negative = np.maximum(matrix, 0), np.minimum(matrix, 0)
            low[index] += positive @ low[parent] + negative @ high[parent]
            high[index] += positive @ high[parent] + negative @ low[parent]
            reach = np.maximum(np.abs(low[parent]), np.abs(high[parent]))
            rounding = gamma(4 * (len(reach) + 4)) * (np.abs(matrix) @ reach + np.abs(constant))
            low[index] -= rounding
            high[index] += rounding
    return {p: (low[p], high[p]) for p in network.pre_activations}


def least_clause_margin(
    query: Query, clause: int, pieces: Iterable[tuple[Region, Piece]] | None = None
) -> float:
    """The least margin of a clause over the region (closure of signs), by enumeration.

    Args:
        query: of a tiny network.
        clause: of its property.
        pieces: of the query, where they are known; they serve all clauses.

    Raises:
        EncodingError: the network has an activation that is not piecewise linear, or the region
            is an l2 ball.
    """
    chosen = query.prop.clause == clause
    rows, offsets = query.prop.rows[chosen], query.prop.offsets[chosen]
    known = linear_pieces(query) if pieces is None else pieces
    return min(_minimise(r, rows, offsets, out) for r, out in known)


def linear_pieces(query: Query) -> Iterator[tuple[Region, Piece]]:
    """Every non-empty linear region and the outputs on it."""
    yield from _walk(query.network, 1, {0: _input(query)}, _start(query))


def _minimise(
    region: Region, rows: NDArray[np.float64], offsets: NDArray[np.float64], out: Piece
) -> float:
    """Least value of the greatest row margin on one region."""
    margins, constants = rows @ out.matrix, rows @ out.constant + offsets
    if len(margins) == 1:
        return region.least(margins[0]) + float(constants[0])
    wide = np.hstack([region.rows, np.zeros((len(region.rows), 1))])
    above = np.hstack([margins, -np.ones((len(margins), 1))])
    lifted = Region(
        np.append(region.lower, -np.inf),
        np.append(region.upper, np.inf),
        np.vstack([wide, above]),
        np.append(region.limits, -constants),
    )
    return lifted.least(np.append(np.zeros(len(region.lower)), 1.0))


def _input(query: Query) -> Piece:
    size = query.network.input_size
    extra = size if isinstance(query.region, Ball) else 0
    return Piece(np.eye(size, size + extra), np.zeros(size))


def _start(query: Query) -> Region:
    box = bounding_box(query.region)
    lower, upper = box.lower.reshape(-1), box.upper.reshape(-1)
    size = len(lower)
    if not isinstance(query.region, Ball):
        return Region(lower, upper, np.zeros((0, size)), np.zeros(0))
    if query.region.norm != 1:
        raise EncodingError("an l2 ball has no linear regions")
    center, identity = query.region.center.reshape(-1), np.eye(size)
    rows = np.vstack(
        [
            np.hstack([identity, -identity]),
            np.hstack([-identity, -identity]),
            np.hstack([np.zeros(size), np.ones(size)])[None],
        ]
    )
    limits = np.concatenate([center, -center, [query.region.radius]])
    far = np.full(size, query.region.radius)
    return Region(np.append(lower, 0 * far), np.append(upper, far), rows, limits)


def _walk(
    network: Network, index: int, values: dict[int, Piece], region: Region
) -> Iterator[tuple[Region, Piece]]:
    if index == len(network.nodes):
        yield region, values[network.output]
        return
    node = network.nodes[index]
    if not node.is_activation:
        matrices, constant = _dense(network, index)
        parts = [(m, values[p]) for m, p in zip(matrices, node.inputs, strict=True)]
        matrix = sum((m @ v.matrix for m, v in parts), np.zeros(()))
        total = sum((m @ v.constant for m, v in parts), constant)
        piece = Piece(np.asarray(matrix), np.asarray(total))
        yield from _walk(network, index + 1, {**values, index: piece}, region)
        return
    parent = node.inputs[0]
    shape = network.nodes[parent].shape
    for part, piece in _branches(node.op, values[parent], shape, 0, region):
        yield from _walk(network, index + 1, {**values, index: piece}, part)


def _branches(
    op: ops.Op, z: Piece, shape: tuple[int, ...], unit: int, region: Region
) -> Iterator[tuple[Region, Piece]]:
    """All consistent decisions of a node's units from `unit` on."""
    window = shape[-1] if isinstance(op, ops.Max) else 1
    units = len(z.constant) // window
    if unit == units:
        yield region, Piece(np.zeros((0, z.matrix.shape[1])), np.zeros(0))
        return
    block = slice(unit * window, (unit + 1) * window)
    for cuts, row, constant in _decisions(op, z.matrix[block], z.constant[block]):
        part = _part(region, cuts)
        if part is None:
            continue
        for rest, piece in _branches(op, z, shape, unit + 1, part):
            matrix = np.vstack([row, piece.matrix])
            yield rest, Piece(matrix, np.append(constant, piece.constant))


def _part(region: Region, cuts: list[_Cut]) -> Region | None:
    """The part of a region, which is not empty, that obeys the cuts; `None` where nothing does."""
    part = region
    for cut, limit in cuts:
        if cut.any():
            part = part.cut(cut, limit)
        elif limit < 0:
            return None
    empty = part is not region and not math.isfinite(part.least(np.zeros(len(region.lower))))
    return None if empty else part


_Cut = tuple[NDArray[np.float64], float]
_Decision = tuple[list[tuple[NDArray[np.float64], float]], NDArray[np.float64], float]


def _decisions(
    op: ops.Op, rows: NDArray[np.float64], constants: NDArray[np.float64]
) -> list[_Decision]:
    """Per decision of one unit: cuts `row . x <= limit`, then the unit's value."""
    if isinstance(op, ops.Max):
        return [
            (
                [(rows[i] - rows[j], constants[j] - constants[i]) for i in range(len(rows))],
                rows[j],
                float(constants[j]),
            )
            for j in range(len(rows))
        ]
    row, constant = rows[0], float(constants[0])
    on, off = [(-row, constant)], [(row, -constant)]
    if isinstance(op, ops.Sign):
        signs: list[_Decision] = [(on, 0 * row, 1.0), (off, 0 * row, -1.0)]
        return signs if op.at_zero else [*signs, (on + off, 0 * row, 0.0)]
    if isinstance(op, ops.Relu | ops.LeakyRelu):
        slope = op.slope if isinstance(op, ops.LeakyRelu) else 0.0
        return [(on, row, constant), (off, slope * row, slope * constant)]
    raise EncodingError(f"{type(op).__name__} is not piecewise linear")


def _dense(network: Network, index: int) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """An affine node as dense matrices, by running it on unit vectors."""
    node = network.nodes[index]
    runtime = TorchNetwork(network, dtype=torch.float64)
    parents = [network.nodes[p] for p in node.inputs]
    zeros = [torch.zeros(1, *p.shape, dtype=torch.float64) for p in parents]
    weights = runtime.weights[index]
    constant = forward_node(node, weights, zeros).reshape(-1)
    matrices = []
    for place, parent in enumerate(parents):
        unit = torch.eye(parent.size, dtype=torch.float64).reshape(parent.size, *parent.shape)
        values = [z.expand(parent.size, *z.shape[1:]) for z in zeros]
        values[place] = unit
        columns = forward_node(node, weights, values).reshape(parent.size, -1) - constant
        matrices.append(columns.numpy().T)
    return matrices, constant.numpy()


def _activation(
    op: ops.Op, value: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """The (monotone) activation at a flattened value."""
    out = shape[:-1] if isinstance(op, ops.Max) else shape
    tensor = torch.as_tensor(value).reshape(1, *shape)
    return np.asarray(forward_node(Node(op, (0,), out), {}, [tensor]).reshape(-1).numpy())
