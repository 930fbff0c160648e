"""One query prepared for branch and bound: the network, its units, the rows of every root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.intermediate import NetworkBounds
from closegap.bounds.interval import propagate
from closegap.bounds.records import Interval
from closegap.bounds.regions import InputSet, input_set
from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.encode.condensed import condensed
from closegap.graph import ops
from closegap.graph.entries import affine_entries
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.verify.bab.units import is_splittable, open_units
from closegap.verify.bab.walls import Walls

__all__ = ["Layer", "SplitProblem", "split_problem"]

#: Dense products may exceed the original's by this much before domains are bounded slower.
_WORTH = 2.0
#: Of convolutions: a neuron that stays costs as much as so many dense products, in all that is done
#: entry by entry.
_NEURON = 400.0


@dataclass(frozen=True, eq=False)
class Layer:
    """The units of one feeding node: unstable neurons, numbered `first`, `first + 1`, ...

    Attributes:
        feed: the feeding node.
        activation: the non-linear node.
        first: number of its first unit.
        indices: flat index of each unit in the node.
        bias: of the affine op that feeds each unit.
        strict: of a split at zero the lower half is open: its units are below zero.
    """

    feed: int
    activation: int
    first: int
    indices: Int[Tensor, "U"]
    bias: Float[Tensor, "U"]
    strict: bool = False

    @property
    def units(self) -> slice:
        """The units' numbers."""
        return slice(self.first, self.first + len(self.indices))

    def constrained(self, base: Interval, walls: Walls) -> Interval:
        """The feeding node's bounds under the splits: `[B, *shape]`.

        Args:
            base: bounds that hold without the splits, `[1, *shape]`.
            walls: of this layer's units.
        """
        count, shape = len(walls), base.lower.shape[1:]
        lower = base.lower.flatten(1).expand(count, -1).clone()
        upper = base.upper.flatten(1).expand(count, -1).clone()
        lower[:, self.indices] = torch.maximum(lower[:, self.indices], walls.low)
        high = walls.high
        if self.strict:
            high = torch.where(high == 0, -TINY, high)
        upper[:, self.indices] = torch.minimum(upper[:, self.indices], high)
        return Interval(lower.reshape(count, *shape), upper.reshape(count, *shape))


@dataclass(frozen=True, eq=False)
class SplitProblem:
    """What every subdomain of a query shares.

    Attributes:
        exact: the (condensed) network in float64, for proofs.
        search: the same in float32.
        exact_region: the input region of `exact`.
        search_region: of `search`.
        bounds: float64 bounds of the feeding nodes.
        values: float64 intervals of every node, for rounding.
        slack: by node, see `BackwardPass`.
        layers: where units are.
        units: how many there are (U).
        rows: float64 `[roots, Q, C]`; a clause with fewer rows repeats its last one.
        offsets: float64 `[roots, Q]`.
        clauses: the clause of each root.
        input_shape: of the original network.
        places: by input or activation of the original network, the node that has its values here,
            and where each of them is, -1 for those it has not, -2 for those that are always zero.
    """

    exact: TorchNetwork
    search: TorchNetwork
    exact_region: InputSet
    search_region: InputSet
    bounds: dict[int, Interval]
    values: list[Interval]
    slack: dict[int, Tensor]
    layers: tuple[Layer, ...]
    units: int
    rows: Float[Tensor, "roots Q C"]
    offsets: Float[Tensor, "roots Q"]
    clauses: NDArray[np.int64]
    input_shape: tuple[int, ...]
    places: Mapping[int, tuple[int, Int[Tensor, "N"]]]

    @property
    def form(self) -> Int[np.ndarray, "nodes"]:
        """How many entries each node of `exact` has: rows and hulls are about these nodes."""
        return np.array([node.size for node in self.exact.network.nodes], np.int64)


def split_problem(
    query: Query,
    known: NetworkBounds,
    clauses: NDArray[np.int64],
    *,
    worth: float | None = None,
    budget: Budget | None = None,
) -> SplitProblem | None:
    """Prepare the open clauses of a query; the clauses are the roots.

    Args:
        query, clauses: what to decide.
        known: float64 bounds of every activation's input.
        worth, budget: see `condensed`; by default as much as makes domains faster.

    Returns:
        `None` where the network has activations that cannot be split yet.
    """
    source = query.network
    if not is_splittable(source):
        return None
    original = TorchNetwork(source, dtype=torch.float64)
    region = input_set(original, query.region)
    reach = np.asarray(Interval(region.lower, region.upper).magnitude.numpy()).reshape(-1)
    reduced = condensed(source, known.flat(), reach, worth=_worth(source, worth), budget=budget)
    network, bounds, slack = source, dict(known.activations), dict[int, Tensor]()
    if reduced is not None:
        region = _flattened(region)
        network, bounds, slack = reduced.network, reduced.intervals(), reduced.slack_tensors()
    exact = TorchNetwork(network, dtype=torch.float64)
    search = TorchNetwork(network, dtype=torch.float32)
    rough = input_set(TorchNetwork(source, dtype=torch.float32), query.region)
    rows, offsets = _root_rows(query.prop, clauses)
    layers = _layers(network, bounds)
    return SplitProblem(
        exact=exact,
        search=search,
        exact_region=region,
        search_region=rough if reduced is None else _flattened(rough),
        bounds=bounds,
        values=propagate(exact, region, bounds),
        slack=slack,
        layers=layers,
        units=sum(len(layer.indices) for layer in layers),
        rows=torch.as_tensor(rows),
        offsets=torch.as_tensor(offsets),
        clauses=clauses,
        input_shape=source.input_shape,
        places=_places(source, network, known, None if reduced is None else reduced.origin),
    )


def _worth(network: Network, asked: float | None) -> float:
    """How many times the network's products dense ones may take: as asked, if anything was."""
    if asked is not None:
        return asked
    if not any(isinstance(node.op, ops.Conv | ops.ConvTranspose) for node in network.nodes):
        return _WORTH
    affine = [node for node in network.nodes[1:] if not node.is_activation]
    products = sum(affine_entries(n, [network.nodes[p] for p in n.inputs]) for n in affine)
    neurons = sum(network.nodes[i].size for i in network.activations)
    return _WORTH + _NEURON * neurons / max(1, products)


def _flattened(region: InputSet) -> InputSet:
    lower, upper = region.lower.flatten(1), region.upper.flatten(1)
    center, prices = (None if t is None else t.flatten(1) for t in (region.center, region.prices))
    return replace(region, lower=lower, upper=upper, center=center, prices=prices)


def _root_rows(
    prop: Property, clauses: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    members = [np.flatnonzero(prop.clause == clause) for clause in clauses]
    width = max(len(m) for m in members)
    padded = np.stack([np.pad(m, (0, width - len(m)), mode="edge") for m in members])
    return prop.rows[padded], prop.offsets[padded]


def _layers(network: Network, bounds: dict[int, Interval]) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    first = 0
    for index in network.activations:
        feed = network.nodes[index].inputs[0]
        interval = bounds[feed]
        op = network.nodes[index].op
        open_ = open_units(op, interval.lower[0], interval.upper[0]).flatten()
        indices = open_.nonzero()[:, 0]
        if len(indices) and all(layer.feed != feed for layer in layers):
            bias = torch.as_tensor(_bias(network, feed))[indices]
            layers.append(Layer(feed, index, first, indices, bias, isinstance(op, ops.Sign)))
            first += len(indices)
    return tuple(layers)


def _places(
    source: Network,
    network: Network,
    known: NetworkBounds,
    origin: Mapping[int, tuple[int, Int[np.ndarray, "N"]]] | None,
) -> dict[int, tuple[int, Tensor]]:
    """See `SplitProblem`; `origin` is `None` where the network is the original."""
    found = {0: (0, torch.arange(source.input_size))}
    if origin is None:
        every = {i: (i, torch.arange(source.nodes[i].size)) for i in source.activations}
        return {**found, **every}
    behind = {source.nodes[i].inputs[0]: i for i in source.activations}
    for index in network.activations:
        feed, there = origin[network.nodes[index].inputs[0]]
        silent = known.activations[feed].upper[0].flatten() <= 0
        silent &= isinstance(source.nodes[behind[feed]].op, ops.Relu)  # leaky ones have values
        place = torch.where(silent, -2, -1)
        place[torch.as_tensor(there)] = torch.arange(len(there))
        found[behind[feed]] = (index, place)
    return found


def _bias(network: Network, index: int) -> NDArray[np.float64]:
    """What the affine ops add on the way to a node, as far as BaBSR wants to know: `[N]`."""
    node = network.nodes[index]
    if isinstance(node.op, ops.Linear):
        return np.broadcast_to(node.op.bias, node.shape).reshape(-1).copy()
    if isinstance(node.op, ops.Conv | ops.ConvTranspose):
        return np.broadcast_to(node.op.bias[:, None, None], node.shape).reshape(-1).copy()
    if isinstance(node.op, ops.Add):
        return np.asarray(sum(_bias(network, parent) for parent in node.inputs))
    if isinstance(node.op, ops.Take):
        return _bias(network, node.inputs[0])[node.op.indices.reshape(-1)]
    return np.zeros(node.size)
