"""Bounds of all layers under splits, many domains at a time, and what each relaxation costs.

A split makes one ReLU linear, and everything behind it tighter. Where bounds stay those of the
root, the splits of early layers gain next to nothing; bounded again they gain most, for what an
early relaxation loses is lost once more in every bound behind it. `LayerChain.bound` makes one
backward pass over each layer's open units, in float64 with rounding subtracted, and cuts the input
by the half-spaces that the splits before it leave. The coefficients that met each relaxation are
kept: carried back from the property they say what the final bound loses at each unit on all paths.

Source: recomputed bounds as in MN-BaB (Ferrari et al., ICLR 2022); the losses follow the indirect
effects of DEEPSPLIT (Henriksen and Lomuscio, IJCAI 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.records import Interval, LinearBound
from closegap.bounds.regions import least
from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.walls import Walls
from closegap.verify.layered.halfspaces import HalfSpaces, least_under

__all__ = ["Chain", "LayerChain", "lost_above"]


@dataclass(frozen=True, eq=False)
class _Pass:
    """One layer's rows: the first half bounds `units` from below, the second half from above.

    `incoming` holds by activation node the coefficients `[B or 1, 2R, *shape]`.
    """

    units: Tensor
    incoming: Mapping[int, Tensor]


@dataclass(frozen=True, eq=False)
class Chain:
    """What one call showed of B domains.

    Attributes:
        bounds: of the feeding nodes, `[B or 1, *shape]`; of an empty domain anything.
        empty: some unit's lower bound exceeds its upper one, `[B]`: no input is in the domain.
        cuts: half-spaces of the input that hold each domain.
        passes: by feeding node.
    """

    bounds: dict[int, Interval]
    empty: Bool[Tensor, "B"]
    cuts: HalfSpaces
    passes: dict[int, _Pass]


class LayerChain:
    """Bounds the units of one problem again, layer by layer.

    Args:
        problem: network, region (a box), units, bounds of the root.
        steps: gradient steps on the multipliers of half-spaces, for every row.
    """

    def __init__(self, problem: SplitProblem, steps: int) -> None:
        self._problem = problem
        self._steps = steps
        region = problem.exact_region
        self._reach = torch.maximum(region.lower.abs(), region.upper.abs()).flatten()

    def bound(self, walls: Walls) -> Chain:
        """Bounds under the splits, nowhere looser than the root's.

        Args:
            walls: the splits of B domains, all at zero.
        """
        problem, count = self._problem, len(walls)
        bounds = dict(problem.bounds)
        size = problem.exact_region.lower[0].numel()
        cuts = HalfSpaces.none(count, size)
        empty, passes = torch.zeros(count, dtype=torch.bool), {}
        for number, layer in enumerate(problem.layers):
            part = walls.of_units(layer.units)
            if part.any:
                bounds[layer.feed] = layer.constrained(bounds[layer.feed], part)
            if number:
                passes[layer.feed] = self._layer(layer, bounds, cuts)
            interval = bounds[layer.feed]
            crossed = (interval.lower > interval.upper).flatten(1).any(dim=1)
            empty = empty | crossed
            top = torch.maximum(interval.lower, interval.upper)
            bounds[layer.feed] = Interval(interval.lower, top)
            if part.any:
                cuts = cuts.join(self._cuts(layer, bounds, part))
        return Chain(bounds, empty, cuts, passes)

    def proved(self, linear: LinearBound, cuts: HalfSpaces) -> Float[Tensor, "B Q"]:
        """The least values of linear bounds on the cut region, rounding subtracted."""
        region = self._problem.exact_region
        if cuts.count:
            rows = linear.coefficients.flatten(2).expand(len(cuts.offsets), -1, -1)
            box = region.lower[0].flatten(), region.upper[0].flatten()
            value, rounding = least_under(cuts, rows, *box, self._steps)
        else:
            value, rounding = least(region, linear.coefficients)
        total = value + linear.constant - 2 * (rounding + linear.rounding)
        return torch.where(torch.isfinite(total), total, -torch.inf)

    def _exact(self, bounds: dict[int, Interval]) -> BackwardPass:
        problem = self._problem
        return BackwardPass(problem.exact, bounds, problem.values, problem.slack)

    def _layer(self, layer: Layer, bounds: dict[int, Interval], cuts: HalfSpaces) -> _Pass:
        """Bound one layer's units wherever some domain has them open; updates `bounds`."""
        known = bounds[layer.feed]
        low, high = known.lower.flatten(1), known.upper.flatten(1)
        units = ((low < 0) & (high > 0))[:, layer.indices].any(dim=0).nonzero()[:, 0]
        if not len(units):
            return _Pass(units, {})
        places, width = layer.indices[units], len(units)
        rows = torch.zeros(1, 2 * width, low.shape[1], dtype=torch.float64)
        rows[0, torch.arange(width), places] = 1
        rows[0, torch.arange(width) + width, places] = -1
        shape = known.lower.shape[1:]
        with torch.no_grad():
            rows = rows.reshape(1, -1, *shape)
            linear = self._exact(bounds).run(layer.feed, rows, keep_incoming=True)
            found = self.proved(linear, cuts)
        count = max(len(found), len(low))
        low, high = low.expand(count, -1).clone(), high.expand(count, -1).clone()
        low[:, places] = torch.maximum(low[:, places], found[:, :width])
        high[:, places] = torch.minimum(high[:, places], -found[:, width:])
        bounds[layer.feed] = Interval(low.reshape(-1, *shape), high.reshape(-1, *shape))
        return _Pass(units, linear.incoming)

    def _cuts(self, layer: Layer, bounds: dict[int, Interval], walls: Walls) -> HalfSpaces:
        """What splits say about the input: a plane below `-sign z`, and that is at most 0."""
        signs = walls.low.isfinite().double() - walls.high.isfinite().double()
        most = int((signs != 0).sum(dim=1).max())
        chosen = signs.abs().argsort(dim=1, descending=True, stable=True)[:, :most]
        shape = bounds[layer.feed].lower.shape[1:]
        rows = torch.zeros(len(walls), most, shape.numel(), dtype=torch.float64)
        rows.scatter_(2, layer.indices[chosen][..., None], -signs.gather(1, chosen)[..., None])
        with torch.no_grad():
            linear = self._exact(bounds).run(layer.feed, rows.reshape(-1, most, *shape))
        normals = linear.coefficients.flatten(2)
        gathered = gamma(len(self._problem.exact.network.nodes)) * (normals.abs() @ self._reach)
        size = linear.constant.abs() + linear.rounding
        lost = 2 * linear.rounding + gathered + 4 * FLOAT64_UNIT * size
        return HalfSpaces(normals, linear.constant - lost)

    def losses(
        self, chain: Chain, weights: Mapping[int, Float[Tensor, "B N"]]
    ) -> Float[Tensor, "B U"]:
        """What each open unit's chord costs the property's bound, to first order; else 0.

        Lower lines are left out: their slopes are optimised, and counting what they lose at their
        ends made trees several times larger.

        Args:
            chain: the bounds that the property was bounded with.
            weights: by activation node, see `lost_above`, of the property's rows.
        """
        problem = self._problem
        count = len(chain.empty)
        weight = dict(weights)
        result = torch.zeros(count, problem.units, dtype=torch.float64)
        for layer in reversed(problem.layers):
            interval = chain.bounds[layer.feed]
            low, high = interval.lower.flatten(1), interval.upper.flatten(1)
            wide, open_ = (high - low).clamp(min=TINY), (low < 0) & (high > 0)
            here = weight[layer.activation] * open_
            lost = here * -low * high / wide + TINY
            result[:, layer.units] = torch.where(open_, lost, 0.0)[:, layer.indices]
            step = chain.passes.get(layer.feed)
            if step is None or not len(step.units):
                continue
            places = layer.indices[step.units]
            sides = [(here * (end / wide) ** 2)[:, places] for end in (high, low)]
            for index, part in step.incoming.items():
                moved = lost_above(torch.cat(sides, dim=1), part)
                weight[index] = weight[index] + moved if index in weight else moved
        return result


def lost_above(
    factor: Float[Tensor, "B Q"], incoming: Float[Tensor, "..."]
) -> Float[Tensor, "B N"]:
    """How much of each chord's gap rows lose: their negative coefficients, weighted and summed.

    Args:
        factor: weights of the rows.
        incoming: the coefficients that met the relaxation, `[B or 1, Q, *shape]`.
    """
    return torch.matmul(factor[:, None], incoming.flatten(2).clamp(max=0).neg())[:, 0]
