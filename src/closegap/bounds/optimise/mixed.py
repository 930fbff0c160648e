"""Search in float32, prove in float64: parameters cross over, bounds do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.optimise.ascent import Ascent, AscentOptions
from closegap.bounds.optimise.climb import Splits
from closegap.bounds.optimise.warm import WarmStarts
from closegap.bounds.records import Parameters
from closegap.bounds.regions import InputSet
from closegap.core.budget import Budget
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["MixedPrecision", "RowOptimiser", "in_dtype"]

#: Tensors of a parameter's size that the search holds: value, gradient, two moments, best, and
#: what the gradient keeps.
_COPIES = 12


@runtime_checkable
class RowOptimiser(Protocol):
    """Chooses parameters for rows at a node."""

    def parameters(
        self, bounder: BackwardPass, start: int, rows: Tensor, budget: Budget
    ) -> Parameters:
        """Parameters for `rows` `[1 or B, Q, ...]` at node `start`, in the bounder's dtype."""


@dataclass(frozen=True, eq=False)
class MixedPrecision:
    """Optimises each row's parameters on a float32 copy of the problem.

    Attributes:
        network: the same network, in the dtype of the search.
        region: the same region, in the dtype of the search.
        options: how to climb.
        splits: by node, constraints that hold on values before or behind the rows,
            `[1, 1, *shape]`; their scale is meant for a neuron whose interval is one wide.
        warm: where rows begin that were climbed on before; of one domain.
    """

    network: TorchNetwork
    region: InputSet
    options: AscentOptions = field(default_factory=AscentOptions)
    splits: Mapping[int, Splits] = field(default_factory=dict)
    warm: WarmStarts | None = None

    def parameters(
        self, bounder: BackwardPass, start: int, rows: Tensor, budget: Budget
    ) -> Parameters:
        """See `RowOptimiser`."""
        dtype = self.network.dtype
        bounds = {i: b.to(dtype) for i, b in bounder.bounds.items()}
        search = BackwardPass(self.network, bounds)
        ascent = Ascent(self.region, self.options)
        parts = []
        for part in torch.split(rows.to(dtype), self._rows_at_once(start, budget, rows), dim=1):
            first = None if self.warm is None else self.warm.find(start, part)
            walls = self._splits(search, start, part, first)
            found = ascent.run(search, start, part, budget, initial=first, splits=walls)
            if self.warm is not None:
                self.warm.keep(start, part, found.parameters)
            parts.append(found.parameters)
        slopes = {i: torch.cat([p.slopes[i] for p in parts], dim=1) for i in parts[0].slopes}
        splits = {i: torch.cat([p.splits[i] for p in parts], dim=1) for i in parts[0].splits}
        return in_dtype(Parameters(slopes, splits), bounder.network.dtype)

    def _splits(
        self, search: BackwardPass, start: int, rows: Tensor, first: Parameters | None
    ) -> dict[int, Splits]:
        """The constraints, with a multiplier for every row in units of what the rows bound."""
        if not self.splits:
            return {}
        interval = search.bounds[start]
        width = float((interval.upper - interval.lower).mean())
        count = (max(len(rows), len(self.region.lower)), rows.shape[1])
        cold = {i: s.multipliers for i, s in self.splits.items()}
        begin = cold if first is None else first.splits
        return {
            i: replace(
                s,
                multipliers=begin[i].expand(*count, *s.multipliers.shape[2:]),
                scale=s.scale * width,
            )
            for i, s in self.splits.items()
        }

    def _rows_at_once(self, start: int, budget: Budget, rows: Tensor) -> int:
        graph = self.network.network
        entries = sum(node.size for node in graph.nodes[: max((start, *self.splits)) + 1])
        domains = max(len(rows), len(self.region.lower))
        each = entries * domains * torch.finfo(self.network.dtype).bits // 8 * _COPIES
        return max(1, budget.memory // max(1, each))


def in_dtype(parameters: Parameters, dtype: torch.dtype) -> Parameters:
    """The same parameters, converted; nearly the same bound, and still sound."""
    return Parameters(
        {i: s.to(dtype) for i, s in parameters.slopes.items()},
        {i: s.to(dtype) for i, s in parameters.splits.items()},
        {i: w.to(dtype) for i, w in parameters.weights.items()},
    )
