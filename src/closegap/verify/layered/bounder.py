"""Bounds of all open clauses at once on many domains, every layer bounded again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.optimise import Ascent, AscentOptions, Splits, in_dtype
from closegap.bounds.records import Interval, LinearBound, Parameters
from closegap.bounds.regions import minimiser
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.walls import Walls
from closegap.verify.layered.chain import Chain, LayerChain, lost_above

__all__ = ["ClauseBounds", "LayeredBounder"]

#: Above every margin: rows of clauses that are proved already climb no more.
_DONE = 1e30


@dataclass(frozen=True, eq=False)
class ClauseBounds:
    """What is known of each domain.

    Attributes:
        lower: proved lower bound of every clause's margin, `[B, K]`; infinite where the domain is
            empty.
        losses: what splitting each unit promises, 0 where it is stable, `[B, U]`.
        unit_lower: bounds of each unit, `[B, U]`.
        unit_upper: likewise.
        candidates: where the worst clause's linear bound is least, `[B, *region shape]`.
    """

    lower: Float[Tensor, "B K"]
    losses: Float[Tensor, "B U"]
    unit_lower: Float[Tensor, "B U"]
    unit_upper: Float[Tensor, "B U"]
    candidates: Float[Tensor, "B ..."]


class LayeredBounder:
    """Bounds domains of one problem.

    Args:
        problem: its roots are the clauses.
        climb: on the slopes and split multipliers of the property's rows.
        steps: gradient steps on the multipliers of half-spaces.
    """

    def __init__(self, problem: SplitProblem, climb: AscentOptions, steps: int) -> None:
        self._problem = problem
        self._chain = LayerChain(problem, steps)
        self._ascent = Ascent(problem.search_region, climb)
        self._scales = {layer.feed: 1.0 for layer in problem.layers}
        self._rows = problem.rows.flatten(0, 1)[None]
        self._offsets = problem.offsets.flatten()[None]

    def bound(self, walls: Walls, closed: Bool[Tensor, "B K"], budget: Budget) -> ClauseBounds:
        """Bound every layer, then the property: sought in float32, proved in float64.

        Args:
            walls: splits of the domains, all at zero.
            closed: clauses that need no more work.
            budget: its deadline ends the climb.
        """
        problem, count = self._problem, len(walls)
        chain = self._chain.bound(walls)
        parameters = self._climb(chain, walls, closed, budget)
        output = problem.exact.network.output
        exact = BackwardPass(problem.exact, chain.bounds, problem.values, problem.slack)
        with torch.no_grad():
            rows = self._rows.expand(count, -1, -1)
            linear = exact.run(output, rows, parameters, keep_incoming=True)
            each = self._chain.proved(linear, chain.cuts) + self._offsets
            each = each - 4 * FLOAT64_UNIT * (each.abs() + self._offsets.abs())
        by_clause = torch.where(each.isfinite(), each, -torch.inf).reshape(*closed.shape, -1)
        lower = torch.where(chain.empty[:, None], torch.inf, by_clause.amax(dim=2))
        losses = self._chain.losses(chain, self._weights(linear, lower, closed))
        worst = torch.where(closed, torch.inf, lower).argmin(dim=1)
        row = worst * by_clause.shape[2] + by_clause[torch.arange(count), worst].argmax(dim=1)
        points = minimiser(problem.exact_region, linear.coefficients)
        return ClauseBounds(
            lower=lower,
            losses=losses,
            unit_lower=self._gather(chain, upper=False),
            unit_upper=self._gather(chain, upper=True),
            candidates=points[torch.arange(count), row],
        )

    def _climb(self, chain: Chain, walls: Walls, closed: Tensor, budget: Budget) -> Parameters:
        problem, dtype = self._problem, torch.float32
        search = BackwardPass(problem.search, {i: b.to(dtype) for i, b in chain.bounds.items()})
        each = closed.repeat_interleave(problem.rows.shape[1], dim=1)
        each = each | chain.empty[:, None]
        splits = {
            layer.feed: self._splits(layer, walls.of_units(layer.units))
            for layer in problem.layers
            if walls.of_units(layer.units).any
        }
        found = self._ascent.run(
            search,
            problem.search.network.output,
            self._rows.float().expand(len(walls), -1, -1),
            budget,
            splits=splits,
            offsets=torch.where(each, _DONE, self._offsets).float(),
        )
        return in_dtype(found.parameters, torch.float64)

    def _splits(self, layer: Layer, walls: Walls) -> Splits:
        shape = self._problem.bounds[layer.feed].lower.shape[1:]

        def spread(values: Tensor) -> Tensor:
            dense = torch.zeros(len(walls), 1, shape.numel())
            dense[:, 0, layer.indices] = values.float()
            return dense.reshape(-1, 1, *shape)

        least = spread(torch.where(walls.high.isfinite(), -torch.inf, 0.0))
        most = spread(torch.where(walls.low.isfinite(), torch.inf, 0.0))
        start = torch.zeros(len(walls), self._rows.shape[1], *shape)
        return Splits(least, most, start, self._scales[layer.feed])

    def _weights(
        self, linear: LinearBound, lower: Tensor, closed: Tensor
    ) -> dict[int, Float[Tensor, "B N"]]:
        """By activation, the coefficients of the rows that are not proved, summed."""
        open_ = (~closed & (lower <= 0)).double()
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

    def _gather(self, chain: Chain, *, upper: bool) -> Tensor:
        count = len(chain.empty)
        parts = [torch.zeros(count, 0, dtype=torch.float64)]
        for layer in self._problem.layers:
            interval: Interval = chain.bounds[layer.feed]
            side = interval.upper if upper else interval.lower
            parts.append(side.flatten(1)[:, layer.indices].expand(count, -1))
        return torch.cat(parts, dim=1)
