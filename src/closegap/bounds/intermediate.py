"""Bounds on every activation's input: interval first, the backward pass only where it can help.

Only neurons whose relaxation would change are bounded backward; each result is intersected with
what was known, so bounds never get looser. Whatever the budget cuts short stays at the interval
bound, which is sound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.backward import BackwardPass, lower_bound
from closegap.bounds.interval import interval_of
from closegap.bounds.optimise import RowOptimiser
from closegap.bounds.records import ActivationBounds, Interval
from closegap.bounds.regions import InputSet
from closegap.bounds.rules import activation_rule
from closegap.bounds.tiles import Chunk, group_by_tile, unit_rows
from closegap.bounds.windows import Window, products
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["NetworkBounds", "bound_activations", "rows_in_chunks", "tighten_activations"]

_MIXING = (ops.Linear, ops.Conv, ops.ConvTranspose, ops.Sum, ops.Add)
#: Tensors of a node's size that one backward row holds at a time.
_COPIES = 8
#: More than this at a time leaves the processor's caches and is slower, not faster.
_CACHED_BYTES = 8 * 1024**2
#: Products with dense matrices want so many rows: a matrix is read as often as there are chunks.
_DENSE_ROWS = 512


@dataclass(frozen=True, eq=False)
class NetworkBounds:
    """Intervals of the feeding nodes, and of every node; complete iff no budget cut them short."""

    activations: ActivationBounds
    values: list[Interval]
    complete: bool = True

    def flat(self) -> dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Lower and upper bounds of the feeding nodes of the first domain, as flat arrays."""
        return {
            index: (_flat(interval.lower), _flat(interval.upper))
            for index, interval in self.activations.items()
        }

    @property
    def undecided(self) -> int:
        """Activation inputs that may have either sign, of all domains."""
        return sum(int(((b.lower < 0) & (b.upper > 0)).sum()) for b in self.activations.values())

    @property
    def empty(self) -> bool:
        """True iff they contradict themselves: nothing satisfies what they were proved under."""
        return any(bool((b.lower > b.upper).any()) for b in self.activations.values())


def _flat(bounds: Tensor) -> NDArray[np.float64]:
    return np.asarray(bounds[0].flatten().cpu().numpy(), dtype=np.float64)


def bound_activations(
    network: TorchNetwork,
    region: InputSet,
    budget: Budget,
    *,
    known: ActivationBounds | None = None,
    optimiser: RowOptimiser | None = None,
    tiles: bool = True,
) -> NetworkBounds:
    """Bound every activation's input, layer by layer.

    Args:
        network: in the dtype of the proof (float64).
        region: boxes `[B or 1, ...]`, in the same dtype.
        budget: deadline and memory.
        known: bounds that already hold; intersected.
        optimiser: improves the slopes of each row before it is bounded; `None` keeps the rules'
            default slopes.
        tiles: group an image's neurons by what they see; `False` is slower and gives the same
            bounds (to compare with).
    """
    known = known or {}
    graph = network.network
    mixing = _mixing_depth(graph)
    feeding = set(graph.pre_activations)
    values = [Interval(region.lower, region.upper)]
    bounds: dict[int, Interval] = {0: values[0]} if 0 in feeding else {}
    complete = True
    for index in range(1, len(graph.nodes)):
        node = graph.nodes[index]
        value = interval_of(network, index, [values[p] for p in node.inputs])
        if index in known:
            value = value.intersect(known[index])
        if index in feeding:
            if region.center is not None or mixing[index] > 1:
                job = _Job(BackwardPass(network, bounds, values), region, budget, optimiser, tiles)
                value, done = job.tighten(index, value)
                complete = complete and done
            bounds[index] = value
        values.append(value)
    return NetworkBounds(bounds, values, complete)


def tighten_activations(
    network: TorchNetwork,
    region: InputSet,
    known: NetworkBounds,
    budget: Budget,
    optimiser: RowOptimiser,
    nodes: Sequence[int],
    slack: Mapping[int, Tensor] | None = None,
) -> NetworkBounds:
    """Bound the undecided neurons of some nodes again, each node with all that is known by then.

    Right where the optimiser takes constraints on later nodes into account: these reach earlier
    neurons through the bounds in between.

    Args:
        network: in the dtype of the proof (float64).
        region: one box, in the same dtype.
        known: bounds of all activations and values, complete or not.
        budget: what does not fit keeps its bounds.
        optimiser: chooses the parameters of each row.
        nodes: feeding nodes behind the input, in the order of the work.
        slack: see `BackwardPass`.
    """
    bounds, complete = dict(known.activations), known.complete
    for index in nodes:
        bounder = BackwardPass(network, bounds, known.values, slack or {})
        job = _Job(bounder, region, budget, optimiser, False)
        bounds[index], done = job.tighten(index, bounds[index])
        complete = complete and done
        if budget.expired or NetworkBounds(bounds, []).empty:
            break
    return NetworkBounds(bounds, known.values, complete)


@dataclass(frozen=True, eq=False)
class _Job:
    """Bounding the neurons of one node backward."""

    bounder: BackwardPass
    region: InputSet
    budget: Budget
    optimiser: RowOptimiser | None
    tiles: bool

    def tighten(self, index: int, value: Interval) -> tuple[Interval, bool]:
        """Both sides of every undecided neuron; False iff the budget ended before the last one."""
        open_ = self._undecided(index, value)
        if self.budget.expired:
            return value, not bool(open_.any())
        domains = max(len(self.region.lower), len(value.lower))
        lower = value.lower.flatten(1).expand(domains, -1).clone()
        upper = value.upper.flatten(1).expand(domains, -1).clone()
        places = open_.flatten(1).expand(domains, -1).nonzero()
        complete = True
        for part, windows in self._chunks(index, places, shared=domains == 1):
            if self.budget.expired:
                complete = False
                break
            found = self._bound(index, part, windows, shared=domains == 1)
            box, neuron = part[:, 0], part[:, 1]
            lower[box, neuron] = torch.maximum(lower[box, neuron], found.lower)
            upper[box, neuron] = torch.minimum(upper[box, neuron], found.upper)
        shape = value.lower.shape[1:]
        return Interval(lower.reshape(-1, *shape), upper.reshape(-1, *shape)), complete

    def _undecided(self, index: int, value: Interval) -> Tensor:
        """Neurons whose relaxation a tighter bound would change, `[B, *shape]`."""
        graph = self.bounder.network.network
        open_ = torch.zeros_like(value.lower, dtype=torch.bool)
        for reader in graph.consumers[index]:
            node = graph.nodes[reader]
            if node.is_activation:
                open_ = open_ | activation_rule(node.op).undecided(node, value)
        return open_

    def _chunks(self, index: int, places: Tensor, *, shared: bool) -> Iterator[Chunk]:
        """The places in parts that fit the memory, and the windows that a part's rows see."""
        graph, dtype = self.bounder.network.network, self.bounder.network.dtype
        groups: list[Chunk] = [(places, {})]
        if self.tiles and shared and self.optimiser is None:
            groups = group_by_tile(graph, index, places)
        least = _DENSE_ROWS // 2 if shared and len(graph.input_shape) == 1 else 1
        for group, windows in groups:
            size = products(graph, index, windows)[1]
            for part in rows_in_chunks(group, 2 * size, self.budget, dtype, least):
                yield part, windows

    def _bound(
        self, index: int, places: Tensor, windows: Mapping[int, Window], *, shared: bool
    ) -> Interval:
        """Both sides of neurons given as (domain, neuron) pairs, each `[pairs]`.

        One domain takes all its neurons as rows of one pass; of many domains each pair becomes a
        domain of its own, so that nobody pays for neurons undecided elsewhere.
        """
        region, bounder = self.region, self.bounder
        rows = self._unit_rows(index, places[:, 1], windows.get(index))
        if shared:
            rows = rows.transpose(0, 1).reshape(1, -1, *rows.shape[2:])
        else:
            region, bounder = region.select(places[:, 0]), bounder.select(places[:, 0])
        parameters = None
        if self.optimiser is not None:
            parameters = self.optimiser.parameters(bounder, index, rows, self.budget)
        least = lower_bound(bounder, region, index, rows, parameters, windows)
        sides = least.reshape(2, -1) if shared else least.T
        return Interval(sides[0], -sides[1])

    def _unit_rows(self, index: int, neurons: Tensor, window: Window | None) -> Tensor:
        """`[pairs, 2, *shape]`, on the window if there is one: +1 and -1 at each neuron."""
        rows = unit_rows(self.bounder.network, index, neurons, window)
        return torch.stack([rows, -rows], dim=1)


def rows_in_chunks(
    rows: Tensor, entries: int, budget: Budget, dtype: torch.dtype, least: int = 1
) -> Iterator[Tensor]:
    """Cut `rows` so that a backward pass over one part stays within the memory budget.

    Args:
        rows: any tensor, cut along its first dimension.
        entries: the greatest number of coefficients one row needs at a node, over all domains.
        budget: its memory is what all temporary tensors may take.
        dtype: of the coefficients.
        least: so many at a time, if the memory allows it.
    """
    each = max(1, entries) * torch.finfo(dtype).bits // 8 * _COPIES
    at_once = max(1, min(budget.memory, max(_CACHED_BYTES, least * each)) // each)
    return iter(torch.split(rows, at_once) if len(rows) else ())


def _mixing_depth(network: Network) -> list[int]:
    """How many sums lie between the input and each node; a large number behind an activation.

    One sum over a box has its exact range in interval arithmetic.
    """
    depth: list[int] = []
    for node in network.nodes:
        before = max((depth[p] for p in node.inputs), default=0)
        deeper = 2 if node.is_activation else int(isinstance(node.op, _MIXING))
        depth.append(before + deeper)
    return depth
