"""LB(S): lower bounds of many sets of activation constraints in one batched call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.backward import BackwardPass, lower_bound
from closegap.bounds.multineuron.resting import RestingPoint, resting_point
from closegap.bounds.optimise import Ascent, AscentOptions, Splits, in_dtype
from closegap.bounds.records import Interval, LinearBound, Parameters
from closegap.bounds.regions import InputSet, least, minimiser
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT
from closegap.verify.bab.clipping import Clipped, Clipping
from closegap.verify.bab.constraints import DomainConstraints, Restricted
from closegap.verify.bab.domains import DomainBatch, DomainResult, unit_walls
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.units import is_hinge
from closegap.verify.bab.walls import Walls

__all__ = ["DomainBounder"]


class DomainBounder:
    """Bounds batches of subdomains of one problem.

    Args:
        problem: what they share.
        options: how to climb on slopes and split multipliers.
        constraints: what else holds on the whole region.
        clipping: cuts boxes while it pays; `None` for never.
    """

    def __init__(
        self,
        problem: SplitProblem,
        options: AscentOptions,
        constraints: DomainConstraints | None = None,
        clipping: Clipping | None = None,
    ) -> None:
        self._problem = problem
        self._clipping = clipping
        self._constraints = constraints or DomainConstraints()
        self._options = replace(options, any_row=True)
        self._ascent = Ascent(problem.search_region, self._options)
        self._rows = problem.rows.shape[1]
        self._scales = {layer.feed: 1.0 for layer in problem.layers}
        activations = problem.exact.network.nodes
        hinges = [is_hinge(activations[layer.activation].op) for layer in problem.layers]
        self._shares = 1 if all(hinges) else 2
        self._hinges = dict(zip(problem.layers, hinges, strict=True))
        self._rough = {i: b.to(torch.float32) for i, b in problem.bounds.items()}

    @property
    def width(self) -> int:
        """Numbers a payload: slopes and multipliers of every row and unit, then of constraints."""
        return self._rows * ((self._shares + 1) * self._problem.units + self._constraints.width)

    @property
    def scales(self) -> Float[np.ndarray, "layers"]:
        """The natural size of each layer's multipliers, learned from batch to batch."""
        return np.array([self._scales[layer.feed] for layer in self._problem.layers])

    @scales.setter
    def scales(self, known: Float[np.ndarray, "layers"]) -> None:
        """Go on from sizes that were learned before."""
        feeds = [layer.feed for layer in self._problem.layers]
        self._scales = dict(zip(feeds, map(float, known), strict=True))

    def bound(self, batch: DomainBatch, budget: Budget) -> DomainResult:
        """Optimise in float32, then evaluate once in float64 with rounding subtracted."""
        problem = self._problem
        bounds, splits, walls = self._constrained(batch)
        clipped = self._clipped(batch, bounds)
        region, ascent = problem.exact_region, self._ascent
        if clipped is not None:
            bounds, region = clipped.bounds(bounds, problem.layers), clipped.region
            ascent = replace(ascent, region=region.to(torch.float32))
        held = self._constraints.restricted(problem, unit_walls(batch, problem.units), batch.root)
        start = problem.search.network.output
        root = torch.as_tensor(batch.root)
        rows, offsets = problem.rows[root], problem.offsets[root]
        search = self._search(bounds, walls, held)
        result = ascent.run(
            search,
            start,
            rows.float(),
            budget,
            initial=self.parameters(batch),
            splits=splits,
            offsets=offsets.float(),
        )
        parameters = in_dtype(result.parameters, torch.float64)
        exact = BackwardPass(
            problem.exact, bounds, problem.values, problem.slack, walls, held.exact
        )
        with torch.no_grad():
            linear = exact.run(start, rows, parameters, keep_incoming=True)
            lower = _proved(region, linear, offsets)
            lower[held.empty] = torch.inf
            boxes = self._cut(clipped, linear, offsets, lower)
        residual = self._by_unit(linear.incoming, len(root))
        incoming = residual + self._by_unit(held.imposed(parameters), len(root))
        self._learn_scales(incoming)
        best = lower.argmax(dim=1)
        points = minimiser(region, linear.coefficients)[torch.arange(len(root)), best]
        return DomainResult(
            lower=np.asarray(lower.amax(dim=1).numpy()),
            incoming=incoming,
            unit_lower=self._gather(bounds, len(root), upper=False),
            unit_upper=self._gather(bounds, len(root), upper=True),
            candidates=np.asarray(points.reshape(len(root), *problem.input_shape).numpy()),
            payload=self.pack(result.parameters, len(root)),
            residual=residual if self._constraints.width else None,
            boxes=boxes,
        )

    def _clipped(self, batch: DomainBatch, bounds: Mapping[int, Interval]) -> Clipped | None:
        """What is left of the region in each domain; `None` where nothing is cut."""
        clipping = self._clipping
        if clipping is None or not clipping.active:
            return None
        boxes = clipping.whole(len(batch.root)) if batch.boxes is None else batch.boxes
        return clipping.cut(boxes, unit_walls(batch, self._problem.units), bounds)

    def _cut(
        self, clipped: Clipped | None, linear: LinearBound, offsets: Tensor, lower: Tensor
    ) -> NDArray[np.float64] | None:
        """Boxes for the children; in place, nothing is below infinity where they are empty."""
        if clipped is None or self._clipping is None:
            return None
        boxes, empty = self._clipping.after(clipped, linear, offsets)
        lower[empty | clipped.empty] = torch.inf
        return boxes

    def glance(self, batch: DomainBatch) -> NDArray[np.float64]:
        """Quick bounds `[B]` in float32 from the payload alone: a guide, no proof."""
        problem = self._problem
        search, parameters, empty = self._at_start(batch)
        root = torch.as_tensor(batch.root)
        rows, offsets = problem.rows[root].float(), problem.offsets[root].float()
        with torch.no_grad():
            found = lower_bound(
                search, problem.search_region, search.network.network.output, rows, parameters
            )
        found = (found + offsets).amax(dim=1)
        return np.asarray(torch.where(empty, torch.inf, found).double().numpy())

    def inputs_at_rest(self, batch: DomainBatch) -> Float[Tensor, "B U"]:
        """The value of each ReLU's input that the payload's bounds rest on, the mean over rows."""
        rest, count = self.resting(batch), len(batch.root)
        found = torch.zeros(count, self._problem.units, dtype=torch.float64)
        for layer in self._problem.layers:
            if layer.feed in rest.values:
                values = rest.values[layer.feed].unflatten(0, (count, -1))
                found[:, layer.units] = values[:, :, layer.indices].mean(dim=1)
        return found

    def resting(self, batch: DomainBatch) -> RestingPoint:
        """What the payload's bounds rest on at ReLUs, every row of every domain: a guide."""
        search, parameters, _ = self._at_start(batch)
        rows = self._problem.rows[torch.as_tensor(batch.root)].float()
        hinges = [layer.activation for layer, hinge in self._hinges.items() if hinge]
        return resting_point(search, self._problem.search_region, rows, parameters, hinges)

    def _at_start(self, batch: DomainBatch) -> tuple[BackwardPass, Parameters, Tensor]:
        """Bounds and parameters as the payload has them, and which domains are empty."""
        problem = self._problem
        bounds, splits, walls = self._constrained(batch)
        held = self._constraints.restricted(problem, unit_walls(batch, problem.units), batch.root)
        given = self.parameters(batch) or Parameters()
        multipliers = {i: s.multipliers for i, s in splits.items()}
        parameters = Parameters(given.slopes, multipliers, given.weights)
        return self._search(bounds, walls, held), parameters, held.empty

    def _search(
        self, bounds: dict[int, Interval], walls: dict[int, Interval], held: Restricted
    ) -> BackwardPass:
        rough, dtype = self._problem.search, torch.float32
        near = {i: b.to(dtype) for i, b in bounds.items()}
        moved = {i: w.to(dtype) for i, w in walls.items()}
        return BackwardPass(rough, near, walls=moved, constraints=held.search)

    def _constrained(
        self, batch: DomainBatch
    ) -> tuple[dict[int, Interval], dict[int, Splits], dict[int, Interval]]:
        """Bounds `[B, *shape]`, split multipliers, and walls that are not at zero."""
        problem = self._problem
        every = unit_walls(batch, problem.units)
        multipliers = self._multipliers(batch)
        bounds = dict(problem.bounds)
        splits: dict[int, Splits] = {}
        walls: dict[int, Interval] = {}
        for layer in problem.layers:
            part = every.of_units(layer.units)
            if not part.any:
                continue
            base = problem.bounds[layer.feed]
            bounds[layer.feed] = layer.constrained(base, part)
            shape = base.lower.shape[1:]
            splits[layer.feed] = self._splits(layer, part, multipliers, shape)
            finite = Walls(*(torch.where(s.isfinite(), s, 0.0) for s in (part.low, part.high)))
            if bool((finite.low != 0).any() or (finite.high != 0).any()):
                walls[layer.feed] = Interval(
                    _spread(finite.low, layer, shape), _spread(finite.high, layer, shape)
                )
        return bounds, splits, walls

    def _splits(
        self, layer: Layer, part: Walls, multipliers: Tensor | None, shape: torch.Size
    ) -> Splits:
        least = torch.where(part.high.isfinite(), -torch.inf, 0.0)
        most = torch.where(part.low.isfinite(), torch.inf, 0.0)
        values = torch.zeros(len(part), self._rows, int(np.prod(shape)))
        if multipliers is not None:
            kept = multipliers[:, :, layer.units].clamp(least[:, None], most[:, None])
            values[:, :, layer.indices] = kept
        return Splits(
            _spread(least, layer, shape)[:, None],
            _spread(most, layer, shape)[:, None],
            values.reshape(len(part), self._rows, *shape),
            self._scales[layer.feed],
        )

    def _multipliers(self, batch: DomainBatch) -> Tensor | None:
        if batch.payload is None:
            return None
        return self._unpacked(batch.payload)[0][:, -1]

    def _unpacked(self, payload: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Of units, `[B, parameters, Q, U]`: slopes (two of a smooth unit), then the multiplier.

        Second, the multipliers of constraints, `[B, Q, width]`.
        """
        rows, units, each = self._rows, self._problem.units, self._shares + 1
        every, others = torch.as_tensor(payload).tensor_split([each * rows * units], dim=1)
        shape = (len(payload), rows, self._constraints.width)
        return every.reshape(-1, each, rows, units), others.reshape(shape)

    def parameters(self, batch: DomainBatch) -> Parameters | None:
        """Slopes and multipliers of constraints in the warm start, float32; `None` without one."""
        if batch.payload is None:
            return None
        problem, count = self._problem, len(batch.root)
        every, others = self._unpacked(batch.payload)
        slopes = {}
        for layer in problem.layers:
            shape = problem.bounds[layer.feed].lower.shape[1:]
            shares = 1 if self._hinges[layer] else 2
            dense = torch.zeros(count, self._rows, shares, int(np.prod(shape)))
            dense[..., layer.indices] = every[:, :shares, :, layer.units].transpose(1, 2)
            dense = dense.reshape(count, self._rows, shares, *shape)
            slopes[layer.activation] = dense[:, :, 0] if self._hinges[layer] else dense
        return Parameters(slopes, weights=self._constraints.unpack(others))

    def pack(self, parameters: Parameters, count: int) -> NDArray[np.float32]:
        """The inverse of `parameters`, split multipliers included: warm starts `[count, width]`."""
        problem = self._problem
        payload = torch.zeros(count, self._shares + 1, self._rows, problem.units)
        for layer in problem.layers:
            slopes = parameters.slopes.get(layer.activation)
            if slopes is not None:
                shares = 1 if self._hinges[layer] else 2
                flat = slopes.reshape(*slopes.shape[:2], shares, -1)[..., layer.indices]
                every = flat.expand(count, self._rows, -1, -1).transpose(1, 2)
                payload[:, :shares, :, layer.units] = every
            split = parameters.splits.get(layer.feed)
            if split is not None:
                payload[:, -1, :, layer.units] = split.flatten(2)[:, :, layer.indices]
        others = self._constraints.pack(parameters, (count, self._rows)).flatten(1)
        return np.asarray(torch.cat([payload.reshape(count, -1), others], dim=1).numpy())

    def _by_unit(self, coefficients: Mapping[int, Tensor], count: int) -> Tensor:
        """What stands at the outputs of units, the mean over rows, `[B, U]`."""
        found = torch.zeros(count, self._problem.units, dtype=torch.float64)
        for layer in self._problem.layers:
            part = coefficients.get(layer.activation)
            if part is not None:
                found[:, layer.units] = part.flatten(2)[:, :, layer.indices].mean(dim=1)
        return found

    def _learn_scales(self, incoming: Tensor) -> None:
        """A multiplier competes with the incoming coefficients, so that is its natural size."""
        for layer in self._problem.layers:
            size = float(incoming[:, layer.units].abs().mean())
            if size > 0:
                self._scales[layer.feed] = size

    def _gather(self, bounds: dict[int, Interval], count: int, *, upper: bool) -> Tensor:
        parts = [torch.zeros(count, 0, dtype=torch.float64)]
        for layer in self._problem.layers:
            interval = bounds[layer.feed]
            side = interval.upper if upper else interval.lower
            parts.append(side.flatten(1)[:, layer.indices].expand(count, -1))
        return torch.cat(parts, dim=1)


def _proved(region: InputSet, linear: LinearBound, offsets: Tensor) -> Tensor:
    """Least values over the region with all rounding taken off; what is not finite says nothing."""
    value, rounding = least(region, linear.coefficients)
    total = value + linear.constant + offsets
    total = total - 2 * (rounding + linear.rounding) - 4 * FLOAT64_UNIT * total.abs()
    return torch.where(torch.isfinite(total), total, -torch.inf)


def _spread(values: Tensor, layer: Layer, shape: torch.Size) -> Tensor:
    """`[B, units of the layer] -> [B, *shape]`, zero elsewhere."""
    dense = values.new_zeros(len(values), int(np.prod(shape)))
    dense[:, layer.indices] = values
    return dense.reshape(len(values), *shape)
