"""Queries small enough to enumerate, with thresholds on either side of their least margin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box, lp_ball
from closegap.testing.enumeration import least_clause_margin, linear_pieces
from tiny_networks import convolutional, dense, linear, network, residual


def narrow_residual(rng: np.random.Generator) -> Network:
    """A skip over one hidden layer: eight ReLUs behind two inputs."""
    return network(
        Node(ops.Input(), (), (2,)),
        Node(linear(rng, 2, 4), (0,), (4,)),
        Node(ops.Relu(), (1,), (4,)),
        Node(linear(rng, 4, 4), (2,), (4,)),
        Node(ops.Add(), (3, 2), (4,)),
        Node(ops.Relu(), (4,), (4,)),
        Node(linear(rng, 4, 3), (5,), (3,)),
    )


RELU_KINDS: dict[str, Callable[[np.random.Generator], Network]] = {
    "dense": lambda rng: dense(rng, [2, 4, 4, 3], ops.Relu()),
    "wide": lambda rng: dense(rng, [3, 8, 2], ops.Relu()),
    "leaky": lambda rng: dense(rng, [2, 4, 3, 3], ops.LeakyRelu(0.1)),
    "narrow residual": narrow_residual,
    "residual": residual,
    "convolutional": convolutional,
}


@dataclass(frozen=True)
class Case:
    """A query and the exact least margin of each clause."""

    query: Query
    margins: tuple[float, ...]

    @property
    def margin(self) -> float:
        return min(self.margins)


def cases(
    rng: np.random.Generator,
    kind: Callable[[np.random.Generator], Network],
    count: int,
    *,
    clauses: tuple[int, ...] = (1, 1),
    norm: float = np.inf,
    radius: float = 0.5,
    fixed: int = 0,
) -> Iterator[Case]:
    """Queries whose thresholds make each clause true or false by a little or a lot.

    `clauses` has the number of rows of each clause. No margin is within 1e-4 of zero, and the
    first `fixed` inputs have one value only. Every network is enumerated once and asked about
    `_THRESHOLDS` times.
    """
    for _ in range(count):
        net = kind(rng)
        rows = sum(clauses)
        prop = Property(
            rows=rng.normal(size=(rows, net.output_size)),
            offsets=np.zeros(rows),
            clause=np.repeat(np.arange(len(clauses)), clauses),
            strict=True,
            names=tuple(str(i) for i in range(len(clauses))),
        )
        center = rng.normal(size=net.input_shape).astype(np.float32) * 0.5
        region = lp_ball(center, radius, norm=norm, low=None, high=None)
        if fixed:
            assert isinstance(region, Box)
            region.lower[:fixed] = region.upper[:fixed] = center[:fixed]
        query = Query(net, region, prop)
        margins = least_margins(query)
        for _ in range(_THRESHOLDS):
            gaps = _gaps(rng, len(clauses))
            moved = replace(prop, offsets=(gaps - margins)[prop.clause])
            yield Case(replace(query, prop=moved), tuple(gaps))


def least_margins(query: Query) -> np.ndarray:
    """The exact least margin of each clause; one walk over the linear regions for simple ones."""
    prop = query.prop
    if prop.clauses != len(prop.rows):
        return np.array([least_clause_margin(query, c) for c in range(prop.clauses)])
    least = np.full(prop.clauses, np.inf)
    for region, piece in linear_pieces(query):
        margins, constants = prop.rows @ piece.matrix, prop.rows @ piece.constant
        found = [region.least(row) for row in margins]
        least = np.minimum(least, found + constants + prop.offsets)
    return least


def _gaps(rng: np.random.Generator, count: int) -> np.ndarray:
    sizes = 10 ** rng.uniform(-4, -0.5, count)
    return np.abs(sizes) if rng.random() < 0.5 else sizes * rng.choice([-1.0, 1.0], count)


#: Thresholds asked of one enumerated network.
_THRESHOLDS = 5
