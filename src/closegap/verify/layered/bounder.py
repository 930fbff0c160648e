"""Bounds of clauses on many domains, every layer bounded again where the clause is broken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.optimise import Ascent, AscentOptions, Splits, in_dtype
from closegap.bounds.records import LinearBound, Parameters
from closegap.bounds.regions import minimiser
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.walls import Walls
from closegap.verify.layered.chain import Chain, LayerChain, lost_above
from closegap.verify.layered.known import Known

__all__ = ["ClauseBounds", "LayeredBounder"]

#: Above every margin: rows that need no bound do not climb.
_DONE = 1e30


@dataclass(frozen=True, eq=False)
class ClauseBounds:
    """What is known of B domains.

    Attributes:
        lower: proved lower bound of every open clause's margin, `[B]`; infinite where the domain
            holds no input that breaks one. Up to zero it holds on the whole domain.
        losses: what splitting each unit promises, 0 where it is stable, `[B, U]`.
        known: what the domain's parts inherit.
        candidates: where the worst clause's linear bound is least, `[B, *region shape]`.
    """

    lower: Float[Tensor, "B"]
    losses: Float[Tensor, "B U"]
    known: Known
    candidates: Float[Tensor, "B ..."]


class LayeredBounder:
    """Bounds domains of one problem.

    Args:
        problem: its roots are the clauses.
        climb: on the slopes and split multipliers of the property's rows.
        steps: gradient steps on the multipliers of half-spaces.
        units: climbing on the slopes of every unit's rows.
    """

    def __init__(
        self, problem: SplitProblem, climb: AscentOptions, steps: int, units: AscentOptions
    ) -> None:
        self._problem = problem
        self._chain = LayerChain(problem, steps, units)
        self._ascent = Ascent(problem.search_region, climb)
        self._scales = {layer.feed: 1.0 for layer in problem.layers}

    @property
    def scales(self) -> Float[np.ndarray, "layers"]:
        """By layer, how large coefficients are there: what the next bounds begin with."""
        return np.array([self._scales[layer.feed] for layer in self._problem.layers], np.float64)

    @scales.setter
    def scales(self, scales: Float[np.ndarray, "layers"]) -> None:
        """Go on with those of another bounder of this problem."""
        feeds = [layer.feed for layer in self._problem.layers]
        self._scales = dict(zip(feeds, map(float, scales), strict=True))

    def bound(
        self,
        walls: Walls,
        known: Known,
        budget: Budget,
    ) -> ClauseBounds:
        """Bound every layer, then the property: sought in float32, proved in float64.

        Args:
            walls: splits of the domains, all at zero.
            known: what holds on the domains wherever one of their open clauses is broken.
            budget: its deadline ends the climb.
        """
        problem, which = self._problem, torch.arange(len(walls))
        chain = self._chain.bound(walls, known.units, known.spaces(), budget)
        clauses = known.open_.int().argsort(dim=1, descending=True, stable=True)
        clauses = clauses[:, : max(1, int(known.open_.sum(dim=1).max()))]
        open_ = known.open_.gather(1, clauses)
        rows, offsets = problem.rows[clauses].flatten(1, 2), problem.offsets[clauses].flatten(1)
        done = ~open_.repeat_interleave(problem.rows.shape[1], dim=1) | chain.empty[:, None]
        guide = torch.where(done, _DONE, offsets).float()
        parameters = self._climb(chain, walls, rows.float(), guide, budget)
        output = problem.exact.network.output
        exact = BackwardPass(problem.exact, chain.bounds, problem.values, problem.slack)
        with torch.no_grad():
            linear = exact.run(output, rows, parameters, keep_incoming=True)
            each = self._chain.proved(linear, chain.cuts) + offsets
            each = each - 4 * FLOAT64_UNIT * (each.abs() + offsets.abs())
            each = torch.where(each.isfinite(), each, -torch.inf).reshape(*clauses.shape, -1)
            best, row = each.max(dim=2)
            row = row + each.shape[2] * torch.arange(clauses.shape[1])
            planes = self._chain.planes(linear, offsets).of_rows(row)
        lower = torch.where(open_ & ~chain.empty[:, None], best, torch.inf)
        left, worst = lower <= 0, row[which, lower.argmin(dim=1)]
        first = left.int().argsort(dim=1, descending=True, stable=True)
        still = torch.zeros_like(known.open_).scatter(1, clauses, left)
        return ClauseBounds(
            lower=lower.amin(dim=1),
            losses=self._chain.losses(chain, self._weights(linear, lower)),
            known=Known(self._gather(chain), still, planes.of_rows(first)),
            candidates=minimiser(problem.exact_region, linear.coefficients)[which, worst],
        )

    def _climb(
        self, chain: Chain, walls: Walls, rows: Tensor, offsets: Tensor, budget: Budget
    ) -> Parameters:
        problem, dtype = self._problem, torch.float32
        search = BackwardPass(problem.search, {i: b.to(dtype) for i, b in chain.bounds.items()})
        splits = {
            layer.feed: self._splits(layer, walls.of_units(layer.units), rows.shape[1])
            for layer in problem.layers
            if walls.of_units(layer.units).any
        }
        found = self._ascent.run(
            search, search.network.network.output, rows, budget, splits=splits, offsets=offsets
        )
        return in_dtype(found.parameters, torch.float64)

    def _splits(self, layer: Layer, walls: Walls, rows: int) -> Splits:
        shape = self._problem.bounds[layer.feed].lower.shape[1:]

        def spread(values: Tensor) -> Tensor:
            dense = torch.zeros(len(walls), 1, shape.numel())
            dense[:, 0, layer.indices] = values.float()
            return dense.reshape(-1, 1, *shape)

        least = spread(torch.where(walls.high.isfinite(), -torch.inf, 0.0))
        most = spread(torch.where(walls.low.isfinite(), torch.inf, 0.0))
        start = torch.zeros(len(walls), rows, *shape)
        return Splits(least, most, start, self._scales[layer.feed])

    def _weights(self, linear: LinearBound, lower: Tensor) -> dict[int, Float[Tensor, "B N"]]:
        """By activation, what the rows of the clauses that are not proved lose there, summed."""
        open_ = (lower <= 0).double()
        open_ = open_.repeat_interleave(self._problem.rows.shape[1], dim=1)
        weights = {}
        for layer in self._problem.layers:
            part = linear.incoming.get(layer.activation)
            if part is None:
                count = self._problem.bounds[layer.feed].lower[0].numel()
                weights[layer.activation] = torch.zeros(len(lower), count).double()
                continue
            size = float(part.abs().mean())
            self._scales[layer.feed] = size if size > 0 else self._scales[layer.feed]
            weights[layer.activation] = lost_above(open_, part)
        return weights

    def _gather(self, chain: Chain) -> Walls:
        count = len(chain.empty)
        parts = [
            [
                side.flatten(1)[:, layer.indices].expand(count, -1)
                for side in (chain.bounds[layer.feed].lower, chain.bounds[layer.feed].upper)
            ]
            for layer in self._problem.layers
        ]
        low, high = zip(*parts, strict=True)
        return Walls(torch.cat(low, dim=1), torch.cat(high, dim=1))
