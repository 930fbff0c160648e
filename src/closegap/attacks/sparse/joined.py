"""Clauses of several rows as one margin each: the greatest, written with ReLUs behind the network.

`max(a, b) = a + relu(b - a)`. A tree that wants all rows of a clause to be at most 0 at once then
knows one row, of a network with a unit more for each row but one. Nothing is lost: that the margin
is at most 0 asks these units to be small, and below, at `h >= 0` and `h >= b - a`, their triangles
are exact: a node's program allows what all rows together allow, and a slope between both lines is
a multiplier of either row, so what is climbed on are multipliers of all rows.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.specs.property import Property
from closegap.specs.query import Query

__all__ = ["joined"]


def joined(query: Query) -> Query:
    """The same question with one row for each clause, its margin the clause's own everywhere."""
    prop = query.prop
    if len(prop.rows) == prop.clauses:
        return query
    kinds = (prop.rows, prop.offsets, prop.clause)
    network = _with_margins(query.network, len(prop.rows), *(part.tobytes() for part in kinds))
    single = Property(
        rows=np.eye(prop.clauses),
        offsets=np.zeros(prop.clauses),
        clause=np.arange(prop.clauses),
        strict=prop.strict,
        names=prop.names,
    )
    return replace(query, network=network, prop=single)


@lru_cache(maxsize=8)
def _with_margins(
    network: Network, count: int, rows: bytes, offsets: bytes, clause: bytes
) -> Network:
    """The network with the clauses' margins for outputs; kept, for bounds are made several times.

    The arrays come as bytes, for they are compared: float64 `[Q, C]` and `[Q]`, int64 `[Q]`.
    """
    nodes = list(network.nodes)
    matrix = np.frombuffer(rows).reshape(count, network.output_size)
    value = _emit(nodes, ops.Linear(matrix, np.frombuffer(offsets)), (network.output,), count)
    owner = np.frombuffer(clause, dtype=np.int64)
    while len(owner) > len(np.unique(owner)):
        value, owner = _halved(nodes, value, owner)
    order = np.argsort(owner)
    last = ops.Linear(np.eye(len(owner))[order], np.zeros(len(owner)))
    _emit(nodes, last, (value,), len(owner))
    # No output is a class any more, and what a softmax keeps is kept by rows that compare classes.
    return replace(network, nodes=tuple(nodes), softmax_dropped=False)


def _halved(
    nodes: list[Node], value: int, owner: Int[np.ndarray, "N"]
) -> tuple[int, Int[np.ndarray, "M"]]:
    """The greatest of each two of a clause; one that is left over stays."""
    firsts: list[int] = []
    seconds: list[int] = []
    for one in np.unique(owner):
        places = np.flatnonzero(owner == one).tolist()
        firsts += places[0::2]
        seconds += [*places[1::2], *([-1] if len(places) % 2 else [])]
    eye, size = np.eye(len(owner)), len(firsts)
    pairs = [place for place, second in enumerate(seconds) if second >= 0]
    rise = np.array([eye[seconds[place]] - eye[firsts[place]] for place in pairs])
    above = _emit(nodes, _linear(rise), (value,), len(pairs))
    above = _emit(nodes, ops.Relu(), (above,), len(pairs))
    spread = _emit(nodes, _linear(np.eye(size)[:, pairs]), (above,), size)
    kept = _emit(nodes, _linear(eye[firsts]), (value,), size)
    return _emit(nodes, ops.Add(), (kept, spread), size), owner[firsts]


def _linear(weight: Float[np.ndarray, "M N"]) -> ops.Linear:
    return ops.Linear(weight, np.zeros(len(weight)))


def _emit(nodes: list[Node], op: ops.Op, inputs: tuple[int, ...], size: int) -> int:
    nodes.append(Node(op, inputs, (size,)))
    return len(nodes) - 1
