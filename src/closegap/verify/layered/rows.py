"""Planes below the units of one layer, by backward passes; slopes are climbed on first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.optimise import Ascent, AscentOptions, in_dtype
from closegap.bounds.records import Interval, LinearBound
from closegap.core.budget import Budget
from closegap.verify.bab.problem import Layer, SplitProblem

__all__ = ["LayerRows", "PassRows", "Rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """What bounds R units of a layer: the first half from below, the second half from above.

    Attributes:
        linear: float64 planes below `z` and `-z`, `[B, 2R, *input shape]`.
        incoming: by activation node, the coefficients `[B or 1, 2R, *shape]` that slopes of least
            area lead to, in float32: no proof.
    """

    linear: LinearBound
    incoming: Mapping[int, Tensor]


class LayerRows(Protocol):
    """Bounds the units of any layer of one problem."""

    def bound(
        self, layer: Layer, units: Int[Tensor, "R"], bounds: Mapping[int, Interval], budget: Budget
    ) -> Rows:
        """Planes of some units.

        Args:
            layer: where they are.
            units: their places among the layer's.
            bounds: of all layers before it, `[B or 1, *shape]`.
            budget: its deadline ends the climb.
        """


class PassRows:
    """Any network: backward passes, slopes by Adam.

    Args:
        problem: network, region, units.
        climb: on the slopes of every row.
    """

    def __init__(self, problem: SplitProblem, climb: AscentOptions) -> None:
        self._problem = problem
        self._ascent = Ascent(problem.search_region, climb)

    def bound(
        self, layer: Layer, units: Int[Tensor, "R"], bounds: Mapping[int, Interval], budget: Budget
    ) -> Rows:
        """See `LayerRows`."""
        problem, shape = self._problem, bounds[layer.feed].lower.shape[1:]
        places, width = layer.indices[units], len(units)
        flat = torch.zeros(1, 2 * width, shape.numel(), dtype=torch.float64)
        flat[0, torch.arange(width), places] = 1
        flat[0, torch.arange(width) + width, places] = -1
        rows = flat.reshape(1, -1, *shape)
        rough = {i: b.to(torch.float32) for i, b in bounds.items()}
        search = BackwardPass(problem.search, rough)
        exact = BackwardPass(problem.exact, bounds, problem.values, problem.slack)
        with torch.no_grad():
            plain = search.run(layer.feed, rows.float(), keep_incoming=True)
        found = self._ascent.run(search, layer.feed, rows.float(), budget)
        with torch.no_grad():
            linear = exact.run(layer.feed, rows, in_dtype(found.parameters, torch.float64))
        return Rows(linear, plain.incoming)
