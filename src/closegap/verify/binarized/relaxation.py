"""Lower bounds of margins when some first-layer signs are given: batches, one backward pass each.

Exact integer intervals fix what signs they can. Behind them a margin is `c . h + k` for the signs
`h` of a layer. A unit that is still open has a sum `a` of its threshold's parity in
`[low, high]`, taken relative to the threshold: on means `a >= 0`, off means `a <= -2`. So

    c > 0:  c h >= -c + d (a + 2)   for 0 <= d <= 2 c / (high + 2)
    c < 0:  c h >=  c + d a         for 2 c / -low <= d <= 0

and `d` is free within its limits. In the first layer, with `matrix x >= on` where a sign is +1 and
`matrix x <= off` where it is -1, an open unit's `c h` is at least `-|c| + m (matrix x - t)`, where
`t` is `off` for m > 0 and `on` for m < 0, with limits on `m` likewise; a given sign adds
`m (matrix x - t)` too, with any `m` of the sign opposite to its own. What remains is linear in `x`,
and its minimum over the box is known. All `d` and `m` are improved by gradient steps. A bound of
the given signs alone that is positive without any margin shows that no input has them. Source:
section 2 of Wang et al., Beta-CROWN (NeurIPS 2021), carried over to signs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma
from closegap.graph.binarized.records import BinarizedNetwork
from closegap.specs.property import Property
from closegap.verify.binarized.cells import HalfSpaces
from closegap.verify.binarized.sign_layers import stage_of

__all__ = ["NodeBounds", "SignRelaxation"]

#: Gradient steps a batch; how far the first of them go, and by what later ones shrink.
_STEPS = 4
_RATE = 0.3
_DECAY = 0.9
#: What a unit's slope counts beside what the relaxation loses at it.
_SLOPE_WORTH = 0.1
#: Adam's averages of slopes and of their squares.
_MOMENTUM, _SPREAD = 0.8, 0.95
#: A multiplier of 1 weighs a unit's reach over the box like so many of the row's largest weights.
_WEIGHTS = 8
#: Keeps limits, which are computed, inside the exact ones.
_INSIDE = 1 - 64 * FLOAT64_UNIT


@dataclass(frozen=True, eq=False)
class NodeBounds:
    """What a batch's nodes are worth.

    Attributes:
        lower: of the clause's margin on the node; infinite where no input has its signs.
        points: the inputs that attain the relaxation.
        gaps: what the relaxation loses at each free unit.
        knobs: what the bound was reached with, to start children from.
    """

    lower: Float[np.ndarray, "B"]
    points: Float[np.ndarray, "B D"]
    gaps: Float[np.ndarray, "B free"]
    knobs: Float[np.ndarray, "B knobs"]


@dataclass(frozen=True, eq=False)
class _Nodes:
    """A batch in one precision."""

    signs: Tensor
    rows: Tensor
    ends: list[tuple[Tensor, Tensor]]
    fixed: list[Tensor]


@dataclass(frozen=True, eq=False)
class _Value:
    """The bound, its pieces, and the sum of all absolute terms."""

    bound: Tensor
    given: Tensor
    size: Tensor
    slope: Tensor
    multipliers: Tensor
    pull: Tensor


class SignRelaxation:
    """Bounds nodes of one query.

    Args:
        network: in exact form; the first layer pools nothing.
        prop: the property.
        spaces: of the first layer's free units.
    """

    def __init__(self, network: BinarizedNetwork, prop: Property, spaces: HalfSpaces) -> None:
        last = network.last
        self._prop, self._spaces = prop, spaces
        self._stages = [stage_of(layer) for layer in network.hidden]
        self._slope = (prop.rows * last.factor) @ last.weight
        self._added = prop.rows @ (last.factor * last.bias + last.offset) + prop.offsets
        sizes = np.abs(prop.rows * last.factor) @ np.abs(last.weight).sum(axis=1)
        sizes += np.abs(prop.rows) @ (np.abs(last.factor * last.bias) + np.abs(last.offset))
        self._sizes = sizes + np.abs(prop.offsets)
        dense = torch.from_numpy(spaces.matrix.toarray())
        middle = (spaces.lower + spaces.upper) / 2
        half = np.nextafter(
            np.maximum(spaces.upper - middle, middle - spaces.lower) * (1 + 2 * FLOAT64_UNIT),
            np.inf,
        )
        half[spaces.lower == spaces.upper] = 0.0
        self._box = {
            dtype: (
                dense.to(dtype),
                torch.from_numpy(middle).to(dtype),
                torch.from_numpy(half).to(dtype),
            )
            for dtype in (torch.float32, torch.float64)
        }
        self._reach = (dense.abs() @ torch.from_numpy(np.abs(middle) + half)).double()
        self._scale = 1.0 / (dense.abs() @ torch.from_numpy(half)).clamp_min(TINY)
        self._free = torch.from_numpy(spaces.free)
        widths = [s.layer.thresholds.units for s in self._stages]
        self._widths = [*widths, len(spaces.free), len(spaces.free)]
        self._terms = len(middle) + 4 * (sum(widths) + dense.shape[0]) + prop.rows.shape[1] + 64
        self._terms += network.first.thresholds.units + self._slope.shape[1]

    def signs_at(self, points: Float[np.ndarray, "B D"]) -> Bool[np.ndarray, "B free"]:
        """Signs of the free units (True is +1), as float64 sees them."""
        matrix = self._box[torch.float64][0]
        return np.asarray(points @ matrix.numpy().T >= (self._spaces.on + self._spaces.off) / 2)

    def intervals(self, signs: Int[np.ndarray, "B U"]) -> Float[np.ndarray, "B Q"]:
        """Lower bounds of all rows by intervals alone."""
        fixed, _ = self._forward(torch.from_numpy(signs).float())
        return self._rows_at(fixed[-1])

    def _rows_at(self, signs: Tensor) -> Float[np.ndarray, "B Q"]:
        last = signs.double().numpy()
        values = last @ self._slope.T - (last == 0) @ np.abs(self._slope).T + self._added
        return np.asarray(values - gamma(4 * self._terms) * self._sizes)

    def _forward(self, signs: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        fixed, ends = [signs], []
        for stage in self._stages:
            low, high, signs = stage.signs(signs)
            ends.append((low, high))
            fixed.append(signs)
        return fixed, ends

    def bound(
        self,
        signs: Int[np.ndarray, "B U"],
        clause: Int[np.ndarray, "B"],
        knobs: Float[np.ndarray, "B knobs"] | None,
    ) -> NodeBounds:
        """Bounds of nodes, each for one clause.

        Args:
            signs: of the first layer; 0 for either.
            clause: of the property.
            knobs: to start from, as the nodes' parents ended; `None` at a root.
        """
        start = torch.from_numpy(signs).float()
        fixed, ends = self._forward(start)
        by_row = self._rows_at(fixed[-1])
        own = np.where(self._prop.clause[None] == clause[:, None], by_row, -np.inf)
        rows = torch.from_numpy(own.argmax(axis=1))
        nodes = _Nodes(start, rows, [(a.float(), b.float()) for a, b in ends], fixed)
        turned = self._improved(nodes, self._start(nodes, knobs))
        exact = _Nodes(
            start.double(),
            rows,
            [(a.double(), b.double()) for a, b in ends],
            [part.double() for part in fixed],
        )
        value = self._value(exact, [knob.double() for knob in turned])
        error = gamma(8 * self._terms) * value.size
        lower = torch.where(value.given > error, torch.inf, value.bound - error).numpy()
        lower = np.fmax(lower, own.max(axis=1))
        return NodeBounds(lower, *self._hints(value, exact), torch.cat(turned, dim=1).numpy())

    def _start(self, nodes: _Nodes, knobs: Float[np.ndarray, "B knobs"] | None) -> list[Tensor]:
        """The shares of each hidden layer and of the first, and the multipliers of given signs."""
        if knobs is not None:
            return list(torch.split(torch.from_numpy(knobs), self._widths, dim=1))
        nothing = torch.zeros(len(nodes.signs), len(self._free))
        return [*self._shares(nodes), nothing, nothing.clone()]

    def _shares(self, nodes: _Nodes) -> list[Tensor]:
        """All of a line where it is above the constant at the middle of its interval, or none."""
        slope = torch.from_numpy(self._slope).float()[nodes.rows]
        shares: list[Tensor] = []
        for place in range(len(self._stages) - 1, -1, -1):
            low, high = nodes.ends[place]
            gains = torch.where(slope > 0, low + high > -4, low + high < 0).float()
            free = nodes.fixed[place + 1] == 0
            slope = self._stages[place].back(slope, nodes.ends[place], free, gains)[0]
            shares.insert(0, gains)
        return shares

    def _improved(self, nodes: _Nodes, knobs: list[Tensor]) -> list[Tensor]:
        """Adam on shares in [0, 1] and on multipliers of given signs, which are not negative."""
        first = [torch.zeros_like(knob) for knob in knobs]
        second = [torch.zeros_like(knob) for knob in knobs]
        rate = _RATE
        for step in range(1, _STEPS + 1):
            for knob in knobs:
                knob.requires_grad_(True)
            total = self._value(nodes, knobs).bound.sum()
            slopes = torch.autograd.grad(total, knobs, allow_unused=True)
            for place, slope in enumerate(slopes):
                if slope is None:
                    continue
                first[place] = _MOMENTUM * first[place] + (1 - _MOMENTUM) * slope
                second[place] = _SPREAD * second[place] + (1 - _SPREAD) * slope**2
                ahead = first[place] / (1 - _MOMENTUM**step)
                spread = (second[place] / (1 - _SPREAD**step)).sqrt().clamp_min(TINY)
                most = np.inf if place == len(knobs) - 1 else 1.0
                knobs[place] = (knobs[place].detach() + rate * ahead / spread).clamp(0.0, most)
            knobs = [knob.detach() for knob in knobs]
            rate *= _DECAY
        return knobs

    def _value(self, nodes: _Nodes, knobs: list[Tensor]) -> _Value:
        dtype = nodes.signs.dtype
        slope = torch.from_numpy(self._slope).to(dtype)[nodes.rows]
        const = torch.from_numpy(self._added).to(dtype)[nodes.rows]
        size = torch.from_numpy(self._sizes).to(dtype)[nodes.rows]
        for place in range(len(self._stages) - 1, -1, -1):
            fixed = nodes.fixed[place + 1]
            const = const + (slope * fixed).sum(1) - (slope.abs() * (fixed == 0)).sum(1)
            size = size + slope.abs().sum(1)
            slope, more, terms = self._stages[place].back(
                slope, nodes.ends[place], fixed == 0, knobs[place] * _INSIDE
            )
            const, size = const + more, size + terms
        const = const + (slope * nodes.signs).sum(1) - (slope.abs() * (nodes.signs == 0)).sum(1)
        size = size + slope.abs().sum(1)
        return self._over_box(nodes, (slope[:, self._free], const, size), knobs[-2:])

    def _over_box(
        self, nodes: _Nodes, parts: tuple[Tensor, Tensor, Tensor], knobs: list[Tensor]
    ) -> _Value:
        (slope, const, size), dtype = parts, nodes.signs.dtype
        matrix, middle, half = self._box[dtype]
        on, off, least, most, scale = (
            torch.from_numpy(a).to(dtype) if isinstance(a, np.ndarray) else a.to(dtype)
            for a in (
                *(getattr(self._spaces, n) for n in ("on", "off", "least", "most")),
                self._scale,
            )
        )
        signs = nodes.signs[:, self._free]
        width = torch.where(slope > 0, most - off, on - least).clamp_min(TINY)
        opened = knobs[0] * _INSIDE * 2 * slope / width * (signs == 0)
        given = -signs * knobs[1] * scale * self._unit(nodes, dtype)
        multipliers = opened + given
        edge = torch.where(multipliers > 0, off, on)
        pull = multipliers @ matrix
        bound = const + pull @ middle - pull.abs() @ half - (multipliers * edge).sum(1)
        alone = given.detach() @ matrix
        edges = (given.detach() * torch.where(given > 0, off, on)).sum(1)
        empty = alone @ middle - alone.abs() @ half - edges
        reach = self._reach.to(dtype) + torch.maximum(on.abs(), off.abs())
        size = size + 2 * multipliers.abs() @ reach
        return _Value(bound, empty, size, slope, multipliers, pull)

    def _unit(self, nodes: _Nodes, dtype: torch.dtype) -> Tensor:
        """The scale of a row's margin, one a node."""
        most = torch.from_numpy(np.abs(self._slope).max(axis=1)).to(dtype)
        return _WEIGHTS * most[nodes.rows, None]

    def _hints(self, value: _Value, nodes: _Nodes) -> tuple[np.ndarray, np.ndarray]:
        matrix, middle, half = self._box[torch.float64]
        points = torch.where(value.pull > 0, middle - half, middle + half)
        sums = points @ matrix.T
        on, off = (torch.from_numpy(a) for a in (self._spaces.on, self._spaces.off))
        edge = torch.where(value.multipliers > 0, off, on)
        actual = value.slope * torch.where(sums >= on, 1.0, -1.0)
        gaps = actual + value.slope.abs() - value.multipliers * (sums - edge)
        gaps = gaps + _SLOPE_WORTH * value.slope.abs()
        free = nodes.signs[:, self._free] == 0
        return points.numpy(), torch.where(free, gaps, -torch.inf).numpy()
