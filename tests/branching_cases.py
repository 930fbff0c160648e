"""Queries small enough to enumerate, with thresholds on either side of their least margin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import lp_ball
from closegap.testing.enumeration import least_clause_margin
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
) -> Iterator[Case]:
    """Queries whose thresholds make each clause true or false by a little or a lot.

    `clauses` has the number of rows of each clause. No margin is within 1e-5 of zero.
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
        region = lp_ball(
            rng.normal(size=net.input_shape) * 0.5, radius, norm=norm, low=None, high=None
        )
        query = Query(net, region, prop)
        least = [least_clause_margin(query, c) for c in range(len(clauses))]
        gaps = rng.choice([-1.0, 1.0, 1.0], len(clauses)) * 10 ** rng.uniform(
            -5, -0.5, len(clauses)
        )
        shift = gaps - np.array(least)
        moved = replace(prop, offsets=shift[prop.clause])
        yield Case(replace(query, prop=moved), tuple(gaps))
