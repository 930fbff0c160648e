"""A distance query within the distance known so far: undecided neurons, and who reads them.

Every improving counterexample lies in `objective.region(image, limit)`. There most neurons are
stable, so the network is short: undecided neurons (units) that read the input and earlier units.
A unit's number changes when the limit falls and the ground is made anew; its place in the original
network does not, and fixed phases are kept by place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.joined import joined
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.numerics import gamma
from closegap.encode.reduced import ReducedNetwork, composed_entries, reduce_network
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import priced
from closegap.specs.query import Query
from closegap.specs.region import Ball, bounding_box, lp_ball
from closegap.verify.incomplete import LinearVerifier

__all__ = ["Ground", "make_ground"]

Array = NDArray[np.float64]

#: Of composed networks that cost more than the convolutions they replace: several may be held.
_MOST_ENTRIES = 16_000_000


@dataclass(frozen=True, eq=False)
class Ground:
    """The network on a region, over `[difference from the image, unit outputs]`.

    In exact arithmetic every input of the region satisfies, for unit j and target row q,

        |z_j - (weight_j . [x - image, h] + bias_j)| <= slack_j
        |m_q - (rows_q . [x - image, h] + offsets_q)| <= row_slack_q

    with `low <= z <= high`, `h = max(z, slope z)`, and `m_q <= 0` where target q is attained.

    Attributes:
        image: `[D]`.
        lower, upper: the region's box `[D]`.
        weight: `[U, D + U]`; a unit reads earlier units only.
        bias, slack, low, high, slope: `[U]`.
        layers: where each layer's units are.
        rows: `[Q, D + U]`.
        offsets, row_slack: `[Q]`.
        place: `[U]`, each unit's place among all neurons that feed activations.
        reach: `[D + U]`, the greatest magnitude of each column.
        limit: every input of a smaller value is in the region.
        norm, radius: of a ball around the image that holds the region; norm 0 for none.
        known: lower and upper bounds by place, `[2, N]`.
    """

    image: Float[np.ndarray, "D"]
    lower: Float[np.ndarray, "D"]
    upper: Float[np.ndarray, "D"]
    weight: Float[np.ndarray, "U C"]
    bias: Float[np.ndarray, "U"]
    slack: Float[np.ndarray, "U"]
    low: Float[np.ndarray, "U"]
    high: Float[np.ndarray, "U"]
    slope: Float[np.ndarray, "U"]
    layers: tuple[slice, ...]
    rows: Float[np.ndarray, "Q C"]
    offsets: Float[np.ndarray, "Q"]
    row_slack: Float[np.ndarray, "Q"]
    place: Int[np.ndarray, "U"]
    reach: Float[np.ndarray, "C"]
    limit: float = math.inf
    norm: int = 0
    radius: float = 0.0
    known: Float[np.ndarray, "2 N"] = field(default_factory=lambda: np.zeros((2, 0)))

    @property
    def inputs(self) -> int:
        """How many inputs there are (D)."""
        return len(self.image)

    @property
    def units(self) -> int:
        """How many units there are (U)."""
        return len(self.bias)

    def forward(self, difference: Float[np.ndarray, "*B D"]) -> tuple[Array, Array]:
        """Every unit's pre-activation and every row's margin at points of the region."""
        leading = difference.shape[:-1]
        state = np.concatenate([difference, np.zeros((*leading, self.units))], axis=-1)
        values = np.zeros((*leading, self.units))
        for layer in self.layers:
            end = self.inputs + layer.start
            z = state[..., :end] @ self.weight[layer, :end].T + self.bias[layer]
            values[..., layer] = z
            state[..., self.inputs :][..., layer] = np.where(z >= 0, z, self.slope[layer] * z)
        return values, state @ self.rows.T + self.offsets


def make_ground(
    query: DistanceQuery,
    limit: float,
    budget: Budget,
    climb: AscentOptions | None = None,
    *,
    dense: bool = False,
) -> Ground | None:
    """Bound the activations within a distance, and compose what is stable.

    Args:
        query: on a network of ReLUs and leaky ReLUs.
        limit: a distance.
        budget: for the bounds.
        climb: on the slopes of each undecided neuron; `None` for plain CROWN.
        dense: whether networks are composed wherever that fits in memory, at whatever cost.

    Returns:
        `None` where the network is too large to be composed, or the budget ended first.
    """
    # Of whole numbers, those that are less are less by one.
    within = max(limit - 1.0, 0.0) if query.objective.integral else limit
    decision = joined(_decision(query, within))
    network = decision.network
    prices = priced(query.objective, query.center, within)
    bounds = LinearVerifier(decision, prices=prices).activations(budget, options=climb)
    flat = {
        feed: (_numpy(interval.lower), _numpy(interval.upper))
        for feed, interval in bounds.activations.items()
    }
    box = bounding_box(decision.region)
    lower, upper = box.lower.reshape(-1), box.upper.reshape(-1)
    reach = np.maximum(np.abs(lower), np.abs(upper))
    fits = dense and composed_entries(network, flat) <= _MOST_ENTRIES
    worth = {"worth": None} if fits else {}
    reduced = reduce_network(network, flat, reach, budget=budget, **worth)
    if reduced is None or budget.expired:
        return None
    image = query.image.reshape(-1).astype(np.float64)
    written = _Writer(network, reduced, image, (lower, upper))
    ground = written.ground(decision.prop.rows, decision.prop.offsets)
    region = decision.region
    norm, radius = (region.norm, region.radius) if isinstance(region, Ball) else (0, 0.0)
    known = _known(network, flat)
    return replace(ground, limit=limit, norm=norm, radius=radius, known=known)


def _decision(query: DistanceQuery, limit: float) -> Query:
    if math.isfinite(limit):
        return query.within(limit)
    whole = query.within(0.0)
    return replace(whole, region=lp_ball(query.image.reshape(query.network.input_shape), 1.0))


def _known(network: Network, bounds: Mapping[int, tuple[Array, Array]]) -> Array:
    """By place: the bounds that hold on the region."""
    return np.stack([_joined([bounds[f][side] for f in _feeds(network)]) for side in (0, 1)])


def _feeds(network: Network) -> list[int]:
    return sorted({network.nodes[i].inputs[0] for i in network.activations})


def _places(network: Network) -> dict[int, int]:
    feeds = _feeds(network)
    ends = np.cumsum([0, *(network.nodes[i].size for i in feeds)])
    return {feed: int(end) for feed, end in zip(feeds, ends[:-1], strict=True)}


class _Writer:
    """Stacks the layers of a reduced network, around the image."""

    def __init__(
        self,
        network: Network,
        reduced: ReducedNetwork,
        image: Array,
        box: tuple[Array, Array],
    ) -> None:
        self._places = _places(network)
        self._reduced = reduced
        self._image = image
        self._box = box
        self._columns = len(image) + sum(len(p) for _, p in reduced.origin.values())

    def ground(self, rows: Array, offsets: Array) -> Ground:
        """Everything but the limit and the decided phases."""
        reduced, nodes = self._reduced, self._reduced.network.nodes
        feeds = sorted(reduced.origin)
        layers = [self._affine(feed) for feed in feeds]
        ends = np.cumsum([0, *(len(part[1]) for part in layers)])
        slopes = [self._slope(feed, len(part[1])) for feed, part in zip(feeds, layers, strict=True)]
        bounds = [reduced.bounds[feed] for feed in feeds]
        low, high = (_joined([pair[side] for pair in bounds]) for side in (0, 1))
        places = [self._places[reduced.origin[f][0]] + reduced.origin[f][1] for f in feeds]
        weight = np.vstack([np.zeros((0, self._columns)), *(part[0] for part in layers)])
        output, bias, slack = self._affine(len(nodes) - 1)
        far = np.maximum(self._box[1] - self._image, self._image - self._box[0])
        slope = _joined(slopes)
        tall = np.maximum(np.abs(low), np.abs(high))
        reach = np.nextafter(np.concatenate([np.maximum(far, 0.0), tall]), np.inf)
        size = np.abs(rows) @ (np.abs(output) @ reach + np.abs(bias)) + np.abs(offsets)
        lost = np.abs(rows) @ slack + 4 * gamma(rows.shape[1] + 8) * size
        return Ground(
            image=self._image,
            lower=self._box[0],
            upper=self._box[1],
            weight=weight,
            bias=_joined([part[1] for part in layers]),
            slack=_joined([part[2] for part in layers]),
            low=low,
            high=high,
            slope=slope,
            layers=tuple(slice(a, b) for a, b in pairwise(ends.tolist())),
            rows=rows @ output,
            offsets=rows @ bias + offsets,
            row_slack=lost,
            place=np.concatenate([np.zeros(0, dtype=np.int64), *places]),
            reach=reach,
        )

    def _affine(self, node: int) -> tuple[Array, Array, Array]:
        """Weight, bias and slack of a dense node, with the image for origin."""
        op = self._reduced.network.nodes[node].op
        assert isinstance(op, ops.Linear)
        count = len(self._image)
        weight = np.pad(op.weight, ((0, 0), (0, self._columns - op.weight.shape[1])))
        moved = op.weight[:, :count] @ self._image
        size = np.abs(op.weight[:, :count]) @ np.abs(self._image) + np.abs(op.bias)
        slack = self._reduced.slack[node] + 2 * gamma(count + 8) * size
        return weight, op.bias + moved, np.nextafter(slack, np.inf)

    def _slope(self, feed: int, count: int) -> Array:
        nodes = self._reduced.network.nodes
        reader = next(n.op for n in nodes if n.is_activation and n.inputs[0] == feed)
        return np.full(count, reader.slope if isinstance(reader, ops.LeakyRelu) else 0.0)


def _joined(parts: list[Array]) -> Array:
    return np.concatenate([np.zeros(0), *parts])


def _numpy(tensor: torch.Tensor) -> Array:
    return np.asarray(tensor[0].flatten().numpy(), dtype=np.float64)
