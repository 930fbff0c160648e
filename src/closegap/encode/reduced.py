"""The network that is left on a region once its stable neurons are gone.

Stable neurons are affine there, so every unstable pre-activation is an affine function of the
input and of the unstable neurons before it. Written out, that is a small dense network: products
of `[rows, columns]` matrices instead of convolutions. Branch and bound visits thousands of
subdomains of one region, and pays the composition once.

One backward pass over the unstable neurons gives their rows: it stops at the units before them,
and crosses every stable neuron on its own line. What it loses to rounding is bounded row by row
(`slack`) and counted as rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.intermediate import rows_in_chunks
from closegap.bounds.interval import propagate
from closegap.bounds.records import Interval, Relaxation, unstable
from closegap.bounds.regions import InputSet
from closegap.bounds.tiles import group_by_tile, unit_rows
from closegap.bounds.windows import Window, plan_windows, products
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT
from closegap.graph import ops
from closegap.graph.entries import affine_entries
from closegap.graph.network import Network, Node
from closegap.runtime.cache import compiled

__all__ = [
    "ReducedNetwork",
    "composed_entries",
    "read_entries",
    "reduce_network",
    "reduction_fits",
    "reduction_pays",
]

#: Dense work may exceed the original's by this much where a dense network is what is needed.
_WORTH = 8.0
#: Entries of all composed matrices together.
_MOST_ENTRIES = 120_000_000
#: The same where nothing multiplies by them: they are read once.
_MOST_DENSE = 40_000_000
_IMAGE = 3


@dataclass(frozen=True, eq=False)
class ReducedNetwork:
    """An equal network on the region, up to `slack`.

    Attributes:
        network: input flat, then `Linear`, activation and `Concat` nodes only.
        origin: by feeding node of the reduced network, its feeding node in the original and the
            flat indices of its neurons there.
        bounds: by feeding node of the reduced network, lower and upper bounds `[N]`.
        slack: by node, how far its value may be from the original's, `[N]`.
        reach: the greatest absolute value of each input, then of each unit's output, `[S]`.
    """

    network: Network
    origin: Mapping[int, tuple[int, Int[np.ndarray, "N"]]]
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]]
    slack: Mapping[int, Float[np.ndarray, "N"]]
    reach: Float[np.ndarray, "S"]

    def intervals(self) -> dict[int, Interval]:
        """`bounds` as float64 intervals `[1, N]`."""
        return {
            i: Interval(torch.as_tensor(lower)[None], torch.as_tensor(upper)[None])
            for i, (lower, upper) in self.bounds.items()
        }

    def slack_tensors(self) -> dict[int, Tensor]:
        """`slack` as float64 tensors, as `BackwardPass` takes it."""
        return {i: torch.as_tensor(off) for i, off in self.slack.items()}


def reduce_network(
    network: Network,
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]],
    reach: Float[np.ndarray, "D"],
    *,
    worth: float | None = _WORTH,
    budget: Budget | None = None,
) -> ReducedNetwork | None:
    """Compose the affine parts between unstable neurons.

    Args:
        network: with ReLU and leaky ReLU activations only.
        bounds: by feeding node, flat lower and upper bounds that hold on the region.
        reach: the greatest absolute value of each input on the region.
        worth: how many times the original's products the dense ones may take; `None` where all
            that counts is that they fit in memory.
        budget: composing is given up when it ends.

    Returns:
        the reduced network, or `None` where it would not be cheaper, the network has other
        activations, or the budget ended.
    """
    nodes = network.nodes
    if any(not isinstance(nodes[i].op, ops.Relu | ops.LeakyRelu) for i in network.activations):
        return None
    if worth is None:
        wanted = reduction_fits(network, bounds)
    else:
        wanted = reduction_pays(network, bounds, worth)
    if not wanted:
        return None
    return _Composer(network, bounds, reach, budget or Budget()).run()


def reduction_pays(
    network: Network,
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]],
    worth: float = _WORTH,
) -> bool:
    """Whether dense products take at most `worth` times the network's own, and fit in memory."""
    columns = network.input_size + sum(map(_open_count, bounds.values()))
    largest = max(node.size for node in network.nodes)
    original = sum(
        affine_entries(n, [network.nodes[p] for p in n.inputs])
        for n in network.nodes[1:]
        if not n.is_activation
    )
    dense = composed_entries(network, bounds)
    return dense <= worth * original and largest * columns <= _MOST_ENTRIES


def reduction_fits(
    network: Network,
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]],
) -> bool:
    """Whether the matrices, zeros included, fit in memory."""
    return composed_entries(network, bounds) <= _MOST_DENSE


def composed_entries(
    network: Network,
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]],
) -> int:
    """Entries of all matrices once everything stable is composed."""
    columns, dense = network.input_size, 0
    for index in network.activations:
        open_ = _open_count(bounds[network.nodes[index].inputs[0]])
        dense += open_ * columns
        columns += open_
    return dense + network.output_size * columns


def read_entries(
    network: Network,
    bounds: Mapping[int, tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]],
) -> int:
    """Entries of the composed rows of all unstable neurons that can differ from zero.

    Estimated from a neuron in the middle of each image: what its window holds of the inputs and of
    the unstable neurons before it.
    """
    shares: dict[int, float] = {0: 1.0}
    total = 0.0
    for index in network.activations:
        feed, size = network.nodes[index].inputs[0], network.nodes[index].size
        open_ = _open_count(bounds[feed])
        total += open_ * _reads(network, feed, shares)
        shares[index] = open_ / size
    return round(total)


def _reads(network: Network, start: int, shares: Mapping[int, float]) -> float:
    """Entries that a row at one neuron has, of nodes of which only shares count."""
    shape = network.nodes[start].shape
    plan: Mapping[int, Window] = {}
    if len(shape) == _IMAGE:
        plan = plan_windows(network, start, Window(shape[1] // 2, shape[2] // 2, 1, 1))
    total = 0.0
    for index, share in shares.items():
        node, window = network.nodes[index], plan.get(index)
        area = node.size if window is None else node.shape[0] * window.height * window.width
        total += share * area
    return total


def _open_count(sides: tuple[np.ndarray, np.ndarray]) -> int:
    lower, upper = sides
    return int(((lower < 0) & (upper > 0)).sum())


class _Composer:
    """Reads the rows of unstable neurons, layer by layer, off backward passes that are exact."""

    def __init__(
        self,
        network: Network,
        bounds: Mapping[int, tuple[np.ndarray, np.ndarray]],
        reach: np.ndarray,
        budget: Budget,
    ) -> None:
        self._source = network
        self._budget = budget
        self._reach = reach.astype(np.float64)
        self._exact = compiled(network, torch.float64)
        intervals = {
            i: Interval(*(torch.as_tensor(s).reshape(1, *network.nodes[i].shape) for s in sides))
            for i, sides in bounds.items()
        }
        box = torch.as_tensor(self._reach).reshape(1, *network.input_shape)
        values = propagate(self._exact, InputSet(-box, box), intervals)
        self._open = {
            i: unstable(intervals[network.nodes[i].inputs[0]]).flatten().nonzero()[:, 0]
            for i in network.activations
        }
        lines = {
            i: _pieces(network.nodes[i].op, intervals[network.nodes[i].inputs[0]])
            for i in network.activations
        }
        self._bounder = BackwardPass(self._exact, intervals, values, lines=lines)
        self._bounds = bounds
        self._nodes = [Node(ops.Input(), (), (network.input_size,), "input")]
        self._state = 0
        self._units: list[int] = []
        self._origin: dict[int, tuple[int, np.ndarray]] = {}
        self._slack: dict[int, np.ndarray] = {}
        self._reduced_bounds: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def run(self) -> ReducedNetwork | None:
        """All layers and the outputs; `None` where the budget ended first."""
        for index in self._source.activations:
            if len(self._open[index]) and not self._layer(index):
                return None
        last = self._source.output
        if self._dense(last, torch.arange(self._source.output_size), "output") is None:
            return None
        network = Network(
            tuple(self._nodes), b"", self._source.digest, None, source=self._source.source
        )
        return ReducedNetwork(network, self._origin, self._reduced_bounds, self._slack, self._reach)

    def _layer(self, index: int) -> bool:
        """A dense layer of the unstable neurons, their activation, and the wider state."""
        node = self._source.nodes[index]
        feed, open_ = node.inputs[0], self._open[index]
        places, count = np.asarray(open_.numpy()), len(open_)
        lower, upper = (side[places] for side in self._bounds[feed])
        layer = self._dense(feed, open_, node.name)
        if layer is None:
            return False
        self._origin[layer] = (feed, places)
        self._reduced_bounds[layer] = (lower, upper)
        self._nodes.append(Node(node.op, (layer,), (count,), node.name))
        unit, size = len(self._nodes) - 1, len(self._reach) + count
        self._nodes.append(Node(ops.Concat(0), (self._state, unit), (size,), "state"))
        self._state = len(self._nodes) - 1
        self._units.append(index)
        self._reach = np.concatenate([self._reach, np.maximum(np.abs(lower), np.abs(upper))])
        return True

    def _dense(self, start: int, places: Tensor, name: str) -> int | None:
        """Some neurons of a node as a layer over the state; `None` where the budget ended."""
        pairs = torch.stack([torch.zeros_like(places), places], dim=1)
        parts, order = [], []
        for group, windows in group_by_tile(self._source, start, pairs):
            size = products(self._source, start, windows)[1]
            for part in rows_in_chunks(group, size, self._budget, torch.float64):
                if self._budget.expired:
                    return None
                parts.append(self._rows(start, part[:, 1], windows))
                order.append(part[:, 1])
        back = np.argsort(torch.cat(order).numpy())
        weight, bias, slack = (np.concatenate(part)[back] for part in zip(*parts, strict=True))
        self._nodes.append(Node(ops.Linear(weight, bias), (self._state,), (len(back),), name))
        self._slack[len(self._nodes) - 1] = slack
        return len(self._nodes) - 1

    def _rows(
        self, start: int, neurons: Tensor, windows: Mapping[int, Window]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights on the state, constants, and how far off both may be."""
        rows = unit_rows(self._exact, start, neurons, windows.get(start))[None]
        with torch.no_grad():
            found = self._bounder.run(start, rows, keep_incoming=True, windows=windows)
            weights = [found.coefficients[0].flatten(1)]
            for index in self._units:
                part, places = found.incoming.get(index), self._open[index]
                empty = rows.new_zeros(len(neurons), len(places))
                weights.append(empty if part is None else part[0].flatten(1)[:, places])
            slack = 2 * found.rounding[0] + 4 * FLOAT64_UNIT * found.constant[0].abs()
        return torch.cat(weights, dim=1).numpy(), found.constant[0].numpy(), slack.numpy()


def _pieces(op: ops.Op, bounds: Interval) -> Relaxation:
    """The line of every stable neuron; zero where one is unstable, for its output is a column."""
    low = op.slope if isinstance(op, ops.LeakyRelu) else 0.0
    lower = bounds.lower[:, None]
    slope = torch.where(lower >= 0, torch.ones_like(lower), torch.full_like(lower, low))
    slope = torch.where(unstable(bounds)[:, None], torch.zeros_like(slope), slope)
    return Relaxation(slope, slope)
