"""Bounds of all layers under splits, many domains at a time, and what each relaxation costs.

A split makes one ReLU linear, and everything behind it tighter. Where bounds stay those of the
root, the splits of early layers gain next to nothing; bounded again they gain most, for what an
early relaxation loses is lost once more in every bound behind it. `LayerChain.bound` makes one
backward pass over each layer's open units, in float64 with rounding subtracted, and cuts the input
by half-spaces: those of all splits, later layers included, and what the caller knows besides. A few
steps on each row's slopes come first. The coefficients that meet each relaxation under slopes of
least area are kept: carried back from the property they say what the final bound loses at each unit
on all paths. Those under optimised slopes do not: what these save at chords they lose at lower
lines, and trees of units chosen so were several times larger.

Source: recomputed bounds as in MN-BaB (Ferrari et al., ICLR 2022); constraints of later layers bear
on earlier ones as in INVPROP (Kotha et al., NeurIPS 2023); the losses follow the indirect effects
of DEEPSPLIT (Henriksen and Lomuscio, IJCAI 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.optimise import AscentOptions
from closegap.bounds.records import Interval, LinearBound
from closegap.bounds.regions import least
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.walls import Walls
from closegap.verify.layered.dense import dense_rows
from closegap.verify.layered.halfspaces import HalfSpaces, least_under
from closegap.verify.layered.rows import LayerRows, PassRows

__all__ = ["Chain", "LayerChain", "lost_above"]


@dataclass(frozen=True, eq=False)
class _Pass:
    """One layer's rows: the first half bounds `units` from below, the second half from above.

    `incoming` holds by activation node the coefficients `[B or 1, 2R, *shape]` that slopes of least
    area lead to, from a pass in float32.
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
        problem: network, region (a box, or a Euclidean ball in one), units, bounds of the root.
        steps: gradient steps on the multipliers of half-spaces, for every row.
        climb: on the slopes of every row; one iteration leaves the slopes of least area.
    """

    def __init__(self, problem: SplitProblem, steps: int, climb: AscentOptions) -> None:
        self._problem = problem
        self._steps = steps
        self._rows: LayerRows = dense_rows(problem, climb) or PassRows(problem, climb)
        region = problem.exact_region
        self._reach = torch.maximum(region.lower.abs(), region.upper.abs()).flatten()

    def bound(self, walls: Walls, held: Walls, spaces: HalfSpaces, budget: Budget) -> Chain:
        """Bounds under the splits, nowhere looser than those that are held.

        Args:
            walls: the splits of B domains, all at zero.
            held: bounds of every unit that hold on the domains; infinite where nothing is known.
            spaces: what else is known of the domains' inputs.
            budget: its deadline ends the climbs.
        """
        bounds, empty = self._start(walls, held)
        parts = {layer.feed: walls.of_units(layer.units) for layer in self._problem.layers}
        split = [layer for layer in self._problem.layers if parts[layer.feed].any]
        cuts = {layer.feed: self._cuts(layer, bounds, parts[layer.feed]) for layer in split}
        passes = {}
        for number, layer in enumerate(self._problem.layers):
            known = spaces.join(*cuts.values())
            if number or known.count:
                passes[layer.feed] = self._layer(layer, bounds, known, budget)
            bounds[layer.feed], crossed = _uncrossed(bounds[layer.feed])
            empty = empty | crossed
            if layer in split:
                cuts[layer.feed] = self._cuts(layer, bounds, parts[layer.feed])
        return Chain(bounds, empty, spaces.join(*cuts.values()), passes)

    def _start(self, walls: Walls, held: Walls) -> tuple[dict[int, Interval], Bool[Tensor, "B"]]:
        """What splits and held bounds say, and which domains they show to be empty."""
        bounds, both = dict(self._problem.bounds), walls.intersect(held)
        empty = torch.zeros(len(walls), dtype=torch.bool)
        for layer in self._problem.layers:
            part = both.of_units(layer.units)
            if part.any:
                tight = layer.constrained(bounds[layer.feed], part)
                bounds[layer.feed], crossed = _uncrossed(tight)
                empty = empty | crossed
        return bounds, empty

    def proved(self, linear: LinearBound, cuts: HalfSpaces) -> Float[Tensor, "B Q"]:
        """The least values of linear bounds on the cut region, rounding subtracted."""
        region = self._problem.exact_region
        if cuts.count:
            rows = linear.coefficients.flatten(2).expand(len(cuts.offsets), -1, -1)
            box = region.lower[0].flatten(), region.upper[0].flatten()
            center = region.center
            ball = None if center is None else (center[0].flatten(), region.radius)
            found = least_under(cuts, rows, *box, self._steps, ball)
            value, rounding = found.value, found.rounding
        else:
            value, rounding = least(region, linear.coefficients)
        total = value + linear.constant - 2 * (rounding + linear.rounding)
        return torch.where(torch.isfinite(total), total, -torch.inf)

    def _exact(self, bounds: dict[int, Interval]) -> BackwardPass:
        problem = self._problem
        return BackwardPass(problem.exact, bounds, problem.values, problem.slack)

    def _layer(
        self, layer: Layer, bounds: dict[int, Interval], cuts: HalfSpaces, budget: Budget
    ) -> _Pass:
        """Bound one layer's units wherever some domain has them open; updates `bounds`."""
        known = bounds[layer.feed]
        low, high = known.lower.flatten(1), known.upper.flatten(1)
        units = ((low < 0) & (high > 0))[:, layer.indices].any(dim=0).nonzero()[:, 0]
        if not len(units):
            return _Pass(units, {})
        rows = self._rows.bound(layer, units, bounds, budget)
        places, width = layer.indices[units], len(units)
        with torch.no_grad():
            found = self.proved(rows.linear, cuts)
        count = max(len(found), len(low))
        low, high = low.expand(count, -1).clone(), high.expand(count, -1).clone()
        low[:, places] = torch.maximum(low[:, places], found[:, :width])
        high[:, places] = torch.minimum(high[:, places], -found[:, width:])
        shape = known.lower.shape[1:]
        bounds[layer.feed] = Interval(low.reshape(-1, *shape), high.reshape(-1, *shape))
        return _Pass(units, rows.incoming)

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
        return self.planes(linear, torch.zeros(1, 1, dtype=torch.float64))

    def planes(self, linear: LinearBound, offsets: Float[Tensor, "B Q"]) -> HalfSpaces:
        """The half-spaces in which linear bounds plus offsets are at most zero, rounded outward."""
        normals = linear.coefficients.flatten(2)
        gathered = gamma(len(self._problem.exact.network.nodes)) * (normals.abs() @ self._reach)
        size = linear.constant.abs() + linear.rounding + offsets.abs()
        lost = 2 * linear.rounding + gathered + 4 * FLOAT64_UNIT * size
        sides = linear.constant + offsets - lost
        usable = sides.isfinite() & normals.isfinite().all(dim=2)
        return HalfSpaces(
            torch.where(usable[..., None], normals, 0.0), torch.where(usable, sides, 0.0)
        )

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


def _uncrossed(interval: Interval) -> tuple[Interval, Bool[Tensor, "B"]]:
    """The interval with ends in order, and the domains in which some were not."""
    crossed = (interval.lower > interval.upper).flatten(1).any(dim=1)
    return Interval(interval.lower, torch.maximum(interval.lower, interval.upper)), crossed


def lost_above(
    factor: Float[Tensor, "B Q"], incoming: Float[Tensor, "..."]
) -> Float[Tensor, "B N"]:
    """How much of each chord's gap rows lose: their negative coefficients, weighted and summed.

    Args:
        factor: weights of the rows.
        incoming: the coefficients that met the relaxation, `[B or 1, Q, *shape]`.
    """
    lost = incoming.flatten(2).clamp(max=0).neg()
    return torch.matmul(factor[:, None].to(lost.dtype), lost)[:, 0].double()
