"""Bounds of a chain of dense ReLU layers over very many small boxes at once.

Layer by layer: planes forward with an error (affine arithmetic with fixed symbols) bound every
neuron; rows backward (CROWN) those that are left undecided. The rows of all boxes share one matrix
product a layer, whatever box they belong to; a relaxation is computed once a box and gathered.

Rounding is bounded a priori, once for the region that holds all boxes: a row `c` on the values of
a layer loses at most `|c| . loss` on its way to the input, where `loss` follows the sums of
absolute terms forward through the layers. Weights that are mostly zero are kept sparse.
Source: Zhang et al., CROWN, 2018; Higham, ch. 3, for the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

from closegap.bounds.chain import ChainWeight, affine_steps, make_linear
from closegap.bounds.regions import underflow
from closegap.core.numerics import TINY, gamma
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["BoxChain", "BoxPlanes", "box_chain"]

#: Entries of the rows taken backward at a time: they stay in a processor's cache.
_CACHED_ENTRIES = 30_000
#: Entries of the planes of all layers, of the boxes bounded at a time.
_FORM_ENTRIES = 4_000_000
#: Backward bounds may cost this many times what forward ones do, were every neuron undecided.
_WORTH = 100
#: Terms added to every allowance: what concretising, chords and sums of constants take.
_EXTRA_TERMS = 24


@dataclass(frozen=True, eq=False)
class BoxPlanes:
    """Planes below rows over boxes: `row . output >= planes . x + constant - loss` on each box.

    Attributes:
        planes: on the free inputs, `[B, Q, F]`.
        constant: `[B, Q]`.
        loss: what rounding may take, concretising over the box included, `[Q]`.
        signs: of neurons: 1 where never negative, -1 where never positive, 0 elsewhere.
        blame: how much of what relaxations lose each input's width is to blame for, `[B, Q, F]`.
    """

    planes: Float[Tensor, "B Q F"]
    constant: Float[Tensor, "B Q"]
    loss: Float[Tensor, "Q"]
    signs: Int8[Tensor, "B signs"]
    blame: Float[Tensor, "B Q F"]


@dataclass(frozen=True, eq=False)
class _Lines:
    """Around each ReLU of a layer: `lower z <= relu(z) <= (lower + more) z + intercept`.

    All `[B, N]`, but `share` `[B, F, N]`: what part of the intercept each input is to blame for.
    """

    lower: Tensor
    more: Tensor
    intercept: Tensor
    chord: Tensor
    share: Tensor


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Middle and half width of the free inputs `[B, F]`."""

    middle: Tensor
    half: Tensor


@dataclass(frozen=True, eq=False)
class _Form:
    """A layer's values on each box: `planes . (x, 1)` up to `error`, and `middle` up to `half`.

    Planes are `[B, F + 1, N]`, the constant last; the others `[B, N]`.
    """

    planes: Tensor
    error: Tensor
    middle: Tensor
    half: Tensor

    def through(self, steps: list[ChainWeight]) -> _Form:
        """Behind affine steps."""
        planes, error, middle, half = self.planes, self.error, self.middle, self.half
        for step in steps:
            planes, middle = step.forward(planes), step.forward(middle) + step.bias
            planes[:, -1] += step.bias
            error, half = step.forward_absolute(error), step.forward_absolute(half)
        return _Form(planes, error, middle, half)

    def across(self, lines: _Lines, low: Tensor, high: Tensor) -> _Form:
        """Behind a ReLU with values in `[low, high]`: two parallel lines around it."""
        planes = self.planes * lines.chord[:, None]
        planes[:, -1] += lines.intercept / 2
        error = self.error * lines.chord + lines.intercept / 2
        return _Form(planes, error, (low + high) / 2, (high - low) / 2)


class BoxChain:
    """A chain of dense layers with ReLUs between them, as a function of its free inputs.

    Args:
        layers: affine steps between activations: the first ones lead to the first ReLU.
        linear: by layer but the last, the neurons that have no ReLU, `[N]`.
        reach: greatest absolute values of the free inputs over all boxes, `[F]`.
        extra: terms added to every allowance.

    Attributes:
        linear: see above.
    """

    def __init__(
        self,
        layers: list[list[ChainWeight]],
        linear: list[Tensor],
        reach: Float[Tensor, "F"],
        extra: int,
    ) -> None:
        self._layers = layers
        self.linear = linear
        self._backward = _backward_pays(layers, len(reach))
        widths = [len(step.bias) for steps in layers for step in steps]
        self._rows_at_once = max(1, _CACHED_ENTRIES // max(widths))
        self._boxes_at_once = max(1, _FORM_ENTRIES // (sum(widths) * (len(reach) + 2)))
        self._size: list[Tensor] = []
        self._loss: list[Tensor] = []
        extra += _EXTRA_TERMS + 2 * sum(len(steps) for steps in layers)
        sums = len(layers) + 1  # absolute terms of a form, in sizes: each ReLU adds one
        sizes = _sizes(layers, reach)
        # What products that underflow may take from a value, or from the plane of a row.
        total = sum((float(s.sum()) for s in sizes), float(reach.sum()) + 8)
        self._vanished = 8 * underflow(torch.float64) * (extra + sum(widths)) * total
        size, loss, following = reach, 2 * sums * gamma(extra) * reach, iter(sizes)
        for steps in layers:
            for step in steps:
                size = next(following)
                matrix, vector = gamma(step.terms + extra), gamma(len(size) + extra)
                loss = step.forward_absolute(loss) + 2 * sums * matrix * size
                loss = loss + vector * step.reach + self._vanished
            self._size.append(2 * size)
            self._loss.append(2 * loss)
            loss = loss + (2 * sums * gamma(extra) + vector) * size

    @property
    def is_finite(self) -> bool:
        """No sum of absolute terms overflows, of values or of coefficients: there is no NaN."""
        total = torch.ones(self._layers[0][0].dense.shape[1], dtype=torch.float64)
        for steps in self._layers:
            for step in steps:
                total = step.forward_absolute(total)
        return bool(total.isfinite().all() and self._loss[-1].isfinite().all())

    @property
    def signs(self) -> int:
        """Signs a box hands on: one for each neuron where they save backward work, else none."""
        if not self._backward:
            return 0
        return sum(len(loss) for loss in self._loss[:-1])

    def values(self, points: Float[Tensor, "M F"]) -> Float[Tensor, "M C"]:
        """Outputs at points of the free inputs: a guide for search."""
        for index, steps in enumerate(self._layers):
            if index:
                points = torch.where(self.linear[index - 1], points, points.clamp(min=0))
            for step in steps:
                points = step.forward(points) + step.bias
        return points

    def bound(
        self,
        lower: Float[Tensor, "B F"],
        upper: Float[Tensor, "B F"],
        rows: Float[Tensor, "Q C"],
        known: Int8[Tensor, "B signs"],
    ) -> BoxPlanes:
        """Planes below `rows . output` on each box.

        Args:
            lower: of the boxes, within the region the chain was made for.
            upper: likewise.
            rows: on the flat output.
            known: signs of neurons that were proved on a box around each box.
        """
        parts = [
            self._bound(lower[part], upper[part], known[part], rows)
            for part in torch.arange(len(lower)).split(self._boxes_at_once)
        ]
        return BoxPlanes(
            torch.cat([p.planes for p in parts]),
            torch.cat([p.constant for p in parts]),
            parts[0].loss,
            torch.cat([p.signs for p in parts]),
            torch.cat([p.blame for p in parts]),
        )

    def _bound(self, lower: Tensor, upper: Tensor, known: Tensor, rows: Tensor) -> BoxPlanes:
        """See `bound`: boxes few enough for the memory."""
        boxes = _Boxes((lower + upper) / 2, (upper - lower) / 2)
        form, lines = _first_form(boxes), list[_Lines]()
        signs, place = known.clone(), 0
        for index, steps in enumerate(self._layers[:-1]):
            form = form.through(steps)
            low, high = self._interval(index, boxes, form)
            if self._backward:
                own = signs[:, place : place + low.shape[1]]
                low = torch.where(own > 0, low.clamp(min=0), low)
                high = torch.where(own < 0, high.clamp(max=0), high)
                if index:
                    open_ = (low < 0) & (high > 0) & ~self.linear[index]
                    self._tighten(boxes, lines, low, high, open_)
                own.copy_((low >= 0).to(torch.int8) - (high <= 0).to(torch.int8))
                place += low.shape[1]
            linear = self.linear[index]
            lines.append(
                _lines(low, high, linear, boxes.half[..., None] * form.planes[:, :-1].abs())
            )
            off = torch.where(linear, low, low.clamp(min=0))
            form = form.across(lines[-1], off, torch.where(linear, high, high.clamp(min=0)))
        incoming: list[Tensor] = []
        every = torch.arange(len(lower))
        start = rows[:, None].expand(-1, len(lower), -1)
        planes, constant = self._back(len(lines), start, every, lines, incoming=incoming)
        blame = torch.zeros_like(planes)
        for line, coefficients in zip(reversed(lines), incoming, strict=True):
            blame += torch.einsum("qbn,bfn->qbf", coefficients.abs(), line.share)
        loss = rows.abs() @ self._loss[-1] + self._vanished
        return BoxPlanes(planes.transpose(0, 1), constant.T, loss, signs, blame.transpose(0, 1))

    def _interval(self, index: int, boxes: _Boxes, form: _Form) -> tuple[Tensor, Tensor]:
        """What planes with errors and plain intervals give, rounded outward, `[B, N]` each."""
        planes, constant = form.planes[:, :-1], form.planes[:, -1]
        loss, most = self._loss[index], self._size[index]
        middle = torch.einsum("bfn,bf->bn", planes, boxes.middle) + constant
        half = torch.einsum("bfn,bf->bn", planes.abs(), boxes.half) + form.error
        low = torch.maximum(middle - half, form.middle - form.half) - loss
        high = torch.minimum(middle + half, form.middle + form.half) + loss
        return torch.maximum(low, -most), torch.minimum(high, most)

    def _tighten(
        self, boxes: _Boxes, lines: list[_Lines], low: Tensor, high: Tensor, open_: Tensor
    ) -> None:
        """Bound the open neurons of the next layer backward, in place."""
        index = len(lines)
        last = self._layers[index][-1]
        places = open_.nonzero()
        for part in places.split(self._rows_at_once):
            box, neuron = part[:, 0], part[:, 1]
            start = last.dense[neuron]
            planes, constant = self._back(
                index, torch.stack([start, -start]), box, lines, begun=True
            )
            spread = (planes.abs() * boxes.half[box]).sum(2)
            down, up = (planes * boxes.middle[box]).sum(2) - spread + constant
            bias, loss = last.bias[neuron], self._loss[index][neuron]
            low[box, neuron] = torch.fmax(low[box, neuron], down + bias - loss)
            high[box, neuron] = torch.fmin(high[box, neuron], bias - up + loss)

    def _back(
        self,
        index: int,
        rows: Tensor,
        box: Tensor,
        lines: list[_Lines],
        *,
        begun: bool = False,
        incoming: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rows `[S, P, N]` on the values of a layer as planes `[S, P, F]`, constants `[S, P]`.

        Args:
            index: of the layer.
            rows: on its values; or, `begun`, on the input of its last step.
            box: that each of the P belongs to, `[P]`.
            lines: of the ReLUs of all layers before.
            begun: the last step is behind the rows, its bias left out.
            incoming: takes the rows on each ReLU's output, the last one's first.
        """
        constant = rows.new_zeros(rows.shape[:2])
        for place in range(index, -1, -1):
            steps = self._layers[place]
            for step in reversed(steps[:-1] if begun else steps):
                constant = constant + rows @ step.bias
                rows = step.back(rows)
            begun = False
            if place:
                line = lines[place - 1]
                negative = rows.clamp(max=0)
                if incoming is not None:
                    incoming.append(rows)
                constant = constant + (negative * line.intercept[box]).sum(2)
                rows = torch.addcmul(rows * line.lower[box], negative, line.more[box])
        return rows, constant


def _sizes(layers: list[list[ChainWeight]], reach: Float[Tensor, "F"]) -> list[Tensor]:
    """Sums of absolute terms behind each step; zero only where all terms are."""
    found, size = list[Tensor](), reach
    for step in (step for steps in layers for step in steps):
        least = step.terms * underflow(reach.dtype)
        some = step.forward_absolute(torch.ones_like(size)) + step.reach > 0
        size = step.forward_absolute(size) + step.reach + least * some
        found.append(size)
    return found


def _first_form(boxes: _Boxes) -> _Form:
    """The free inputs themselves."""
    count, free = boxes.middle.shape
    planes = torch.zeros(count, free + 1, free, dtype=boxes.middle.dtype)
    planes[:, :free] = torch.eye(free, dtype=planes.dtype)
    return _Form(planes, torch.zeros_like(boxes.middle), boxes.middle, boxes.half)


def _lines(low: Tensor, high: Tensor, linear: Tensor, spread: Tensor) -> _Lines:
    """The chord above; below a line of slope 0 or 1, whichever leaves less area.

    `spread` `[B, F, N]` is half of what each input's width adds to the width of the neuron.
    """
    open_ = (low < 0) & (high > 0) & ~linear
    off, on = low.clamp(max=0), high.clamp(min=0)
    steep = ((low >= 0) | linear).to(low.dtype)
    chord = torch.where(open_, on / torch.where(open_, on - off, 1.0), steep)
    lower = torch.where(open_, (on >= -off).to(low.dtype), steep)
    intercept = torch.where(open_, -chord * off, 0.0)
    share = spread * (intercept / (on - off).clamp(min=TINY))[:, None]
    return _Lines(lower, chord - lower, intercept, chord, share)


def box_chain(
    network: TorchNetwork,
    lower: Float[Tensor, "D"],
    upper: Float[Tensor, "D"],
    free: Int[Tensor, "F"],
) -> BoxChain | None:
    """The network as a chain over its free inputs; `None` where it is no chain of dense ReLUs.

    Args:
        network: in float64.
        lower: of the region that holds all boxes, flat.
        upper: likewise; equal to `lower` outside `free`.
        free: flat indices of the inputs that vary.
    """
    found = affine_steps(network)
    if found is None:
        return None
    linear = [make_linear(steps[-1], following[0]) for steps, following in pairwise(found)]
    fixed = lower.clone()
    fixed[free] = 0
    weight, bias = found[0][0]
    first = ChainWeight(
        weight[:, free].contiguous(), weight @ fixed + bias, weight.abs() @ fixed.abs() + bias.abs()
    )
    layers = [[ChainWeight(w, b, b.abs()) for w, b in steps] for steps in found]
    layers[0][0] = first
    reach = torch.maximum(lower.abs(), upper.abs())[free]
    chain = BoxChain(layers, linear, reach, len(lower))
    return chain if chain.is_finite else None


def _backward_pays(layers: list[list[ChainWeight]], free: int) -> bool:
    """Compare the products both ways need for one box, every neuron undecided."""
    forward, backward = 0, 0
    for steps in layers[:-1]:
        forward += sum(step.entries for step in steps)
        backward += 2 * len(steps[-1].bias) * forward
    return backward <= _WORTH * (free + 2) * forward
