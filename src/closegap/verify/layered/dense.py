"""Planes below the units of dense chains: all rows of a layer in a few matrix products.

The same bounds as those of `PassRows`, at a fraction of the cost: gradients are written out, slopes
move by their sign, and rows are taken so few at a time that they stay in a processor's cache.

A row loses to rounding, on its way to the input, at most `sum |A_j| . size_j` over the layers it
crosses, where `A_j` are the coefficients it has on the outputs of layer j in floating point, and
`size_j` is made once, from the greatest values of the neurons. Coefficients count as they are: an
error of one is an error times what it multiplies, and goes no further.
Source: Zhang et al., CROWN, 2018; Xu et al., alpha-CROWN, 2021; Higham, ch. 3, for the rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from closegap.bounds.chain import chain_nodes
from closegap.bounds.optimise import AscentOptions
from closegap.bounds.records import Interval, LinearBound
from closegap.bounds.regions import underflow
from closegap.core.budget import Budget
from closegap.core.numerics import gamma
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.layered.ball import BallReach
from closegap.verify.layered.rows import Rows

__all__ = ["CROSSING", "DenseRows", "dense_rows", "lost_by_rows"]

#: Entries of the rows of one layer that are taken at a time.
_CACHED_ENTRIES = 150_000
#: Roundings of a crossing: a chord, its intercept, two products and a sum, each counted twice.
CROSSING = 24


@dataclass(frozen=True, eq=False)
class _Lines:
    """Around the ReLUs of a layer, `[B or 1, 1, N]` each.

    Lower lines have slopes between `least` and `most`: both 1 or both 0 where the sign is known.
    `start` is the slope of least area.
    """

    least: Tensor
    most: Tensor
    start: Tensor
    chord: Tensor
    intercept: Tensor

    @classmethod
    def of(cls, low: Tensor, high: Tensor) -> _Lines:
        """By the bounds of the inputs, `[B or 1, N]`."""
        low, high = low[:, None], high[:, None]
        open_, on = (low < 0) & (high > 0), (low >= 0).to(low.dtype)
        chord = torch.where(open_, high / torch.where(open_, high - low, 1.0), on)
        start = torch.where(open_, (high >= -low).to(low.dtype), on)
        most = torch.where(open_, 1.0, on)
        return cls(on, most, start, chord, torch.where(open_, -chord * low, 0.0))

    def select(self, domains: slice) -> _Lines:
        """Those of some domains; shared ones stay shared."""
        parts = (self.least, self.most, self.start, self.chord, self.intercept)
        return self if len(self.least) == 1 else _Lines(*(part[domains] for part in parts))


@dataclass(frozen=True, eq=False)
class _Step:
    """One affine layer, its ReLU's node, and the node that feeds it."""

    feed: int
    activation: int
    weight: Tensor
    bias: Tensor

    def to(self, dtype: torch.dtype) -> _Step:
        """The same in another dtype."""
        return _Step(self.feed, self.activation, self.weight.to(dtype), self.bias.to(dtype))


class DenseRows:
    """Bounds units of a chain of dense ReLU layers; see `LayerRows`.

    Args:
        problem: its network is such a chain.
        steps: the layers before each ReLU, the first one's first, float64.
        climb: on the slopes of every row.
    """

    def __init__(self, problem: SplitProblem, steps: list[_Step], climb: AscentOptions) -> None:
        region = problem.exact_region
        low, high = region.lower[0].flatten(), region.upper[0].flatten()
        self._middle, self._half = ((low + high) / 2).float(), ((high - low) / 2).float()
        self._ball: BallReach | None = None
        if region.center is not None:
            center = region.center[0].flatten()
            self._ball = BallReach(center, region.radius, (low, high), torch.float32)
            self._middle = center.float()
        self._climb = climb
        self._steps = steps
        self._rough = [step.to(torch.float32) for step in steps]
        self._place = {step.feed: number for number, step in enumerate(steps)}
        inputs = torch.maximum(low.abs(), high.abs())
        self._most = [problem.values[step.feed].magnitude[0].flatten() for step in steps]
        self._size = [
            lost_by_rows(step.weight, step.bias, before, most, len(steps))
            for step, before, most in zip(steps, [inputs, *self._most], self._most, strict=False)
        ]
        total = sum((float(most.sum()) for most in self._most), float(inputs.sum()) + 4.0)
        entries = sum(len(step.bias) + 8 for step in steps) + len(inputs)
        self._vanished = underflow(torch.float64) * entries * total * len(steps)
        self._input_shape = region.lower.shape[1:]

    def bound(
        self, layer: Layer, units: Int[Tensor, "R"], bounds: Mapping[int, Interval], budget: Budget
    ) -> Rows:
        """See `LayerRows`; the budget is not asked: a climb takes milliseconds."""
        number, places = self._place[layer.feed], layer.indices[units]
        lines = [
            self._lines(bounds[s.feed], most)
            for s, most in zip(self._steps[:number], self._most, strict=False)
        ]
        count = max([1, *(len(line.least) for line in lines)])
        widest = max(step.weight.shape[1] for step in self._steps[: number + 1])
        at_once = max(1, _CACHED_ENTRIES // (2 * len(units) * widest))
        parts = [
            self._part(number, places, [line.select(slice(i, i + at_once)) for line in lines])
            for i in range(0, count, at_once)
        ]
        incoming = {
            step.activation: torch.cat([p.incoming[step.activation] for p in parts])
            for step in self._steps[:number]
        }
        planes = torch.cat([p.linear.coefficients for p in parts])
        joined = LinearBound(
            planes.reshape(*planes.shape[:2], *self._input_shape),
            torch.cat([p.linear.constant for p in parts]),
            torch.cat([p.linear.rounding for p in parts]),
        )
        return Rows(joined, incoming)

    def _lines(self, interval: Interval, most: Tensor) -> _Lines:
        low, high = interval.lower.flatten(1), interval.upper.flatten(1)
        return _Lines.of(torch.maximum(low, -most), torch.minimum(high, most))

    def _part(self, number: int, places: Tensor, lines: list[_Lines]) -> Rows:
        """See `bound`: domains few enough for the cache, the input flat."""
        rough = [_Lines(*(getattr(line, f).float() for f in _FIELDS)) for line in lines]
        slopes, incoming = self._climbed(number, places, rough)
        step = self._steps[number]
        rows = torch.cat([step.weight[places], -step.weight[places]])[None]
        constant = torch.cat([step.bias[places], -step.bias[places]])[None]
        rounding = gamma(CROSSING * len(self._steps)) * constant.abs() + self._vanished
        for place in range(number - 1, -1, -1):
            line, before, size = lines[place], self._steps[place], self._size[place]
            slope = slopes[place].double().clamp_(line.least, line.most)
            negative = rows.clamp(max=0)
            both = torch.stack([line.intercept[:, 0], size.expand(len(line.chord), -1)], dim=2)
            sums = negative @ both
            rounding = rounding + (rows @ size - 2 * sums[..., 1])
            rows = torch.addcmul((rows - negative) * slope, negative, line.chord)
            constant = constant + sums[..., 0] + rows @ before.bias
            rows = rows @ before.weight
        shown = {
            before.activation: part.expand(len(rows), -1, -1)
            for before, part in zip(self._steps[:number], incoming, strict=True)
        }
        return Rows(LinearBound(rows, constant, rounding), shown)

    def _climbed(
        self, number: int, places: Tensor, lines: list[_Lines]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Each row's slopes of the best bound seen, and the coefficients in the beginning."""
        step = self._rough[number]
        start = torch.cat([step.weight[places], -step.weight[places]])[None]
        slopes = [line.start for line in lines]
        best: Tensor | None = None
        kept = slopes
        incoming: list[Tensor] = []
        last = max(1, self._climb.iterations)
        for count in range(1, last + 1):
            value, planes, met = self._value(start, slopes, lines)
            if best is None:
                best, incoming = value, met
            else:
                better = (value > best)[..., None]
                best = torch.maximum(best, value)
                kept = [torch.where(better, s, k) for s, k in zip(slopes, kept, strict=True)]
            if count == last or not lines:
                break
            rate = self._climb.slope_rate * self._climb.decay**count
            slopes = self._moved(planes, met, slopes, lines, rate)
        return kept, incoming

    def _value(
        self, rows: Tensor, slopes: list[Tensor], lines: list[_Lines]
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What rows are at least, but for a constant, their planes, and what they met."""
        met: list[Tensor] = []
        constant = rows.new_zeros(rows.shape[:2])
        for line, slope, before in zip(
            reversed(lines), reversed(slopes), reversed(self._rough[: len(lines)]), strict=True
        ):
            met.append(rows)
            negative = rows.clamp(max=0)
            constant = constant + (negative @ line.intercept[:, 0, :, None])[..., 0]
            rows = torch.addcmul((rows - negative) * slope, negative, line.chord)
            constant = constant + rows @ before.bias
            rows = rows @ before.weight
        ball = self._ball
        fall = rows.abs() @ self._half if ball is None else ball.length(rows)
        value = constant + rows @ self._middle - fall
        return value, rows, met[::-1]

    def _moved(
        self,
        planes: Tensor,
        met: list[Tensor],
        slopes: list[Tensor],
        lines: list[_Lines],
        rate: float,
    ) -> list[Tensor]:
        """Slopes one step up each row's bound: gradients from the input where it is least."""
        if self._ball is None:
            values = torch.addcmul(self._middle, planes.sign(), self._half, value=-1)
        else:
            values = self._middle - self._ball.toward(planes)
        moved = []
        for place, (rows, slope, line) in enumerate(zip(met, slopes, lines, strict=True)):
            step = self._rough[place]
            inner = values @ step.weight.T + step.bias
            upward = (rows.clamp(min=0) * inner).sign_()
            moved.append(torch.add(slope, upward, alpha=rate).clamp_(line.least, line.most))
            above = torch.addcmul(line.intercept, line.chord, inner)
            values = torch.lerp(above, inner.mul_(slope), rows.sign().clamp_(min=0))
        return moved


_FIELDS = ("least", "most", "start", "chord", "intercept")


def lost_by_rows(
    weight: Float[Tensor, "N M"],
    bias: Float[Tensor, "N"],
    before: Float[Tensor, "M"],
    most: Float[Tensor, "N"],
    layers: int,
) -> Float[Tensor, "N"]:
    """`size` with `|A| . size` what a row A on the outputs of a ReLU loses on its way behind it.

    Args:
        weight, bias: of the layer that feeds the ReLU, float64.
        before: greatest absolute values of what the layer reads.
        most: of what it feeds.
        layers: how many there are: constants are summed over all of them.
    """
    terms = max(weight.shape) + CROSSING
    product = weight.abs() @ before + bias.abs()
    crossing = gamma(terms + CROSSING * layers) * (2 * most + 2 * bias.abs())
    # An intercept may underflow, and so may this, and coefficients may be large.
    return 2 * (crossing + 2 * gamma(terms) * product) + 16 * underflow(torch.float64)


def dense_rows(problem: SplitProblem, climb: AscentOptions) -> DenseRows | None:
    """Rows of a problem whose network is a chain of dense layers; `None` where it is another."""
    network = problem.exact.network
    if any(off.any() for off in problem.slack.values()):
        return None
    layers = chain_nodes(_without_last_relu(network))
    if layers is None or any(len(linear) > 1 for linear in layers):
        return None
    steps: list[_Step] = []
    for (feed,) in layers:
        if feed in problem.bounds:
            weights = problem.exact.weights[feed]
            steps.append(_Step(feed, feed + 1, weights["weight"], weights["bias"]))
    if len(steps) < len(network.activations):  # reshaped on the way to a ReLU
        return None
    return DenseRows(problem, steps, climb)


def _without_last_relu(network: Network) -> Network:
    if not isinstance(network.nodes[-1].op, ops.Relu):
        return network
    return replace(network, nodes=network.nodes[:-1])
