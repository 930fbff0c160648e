"""Multipliers of many nodes at once, by ascent on slopes and on fixed phases.

A node's plane is a backward pass through its units: above a free unit its chord, below it a line of
any slope `alpha` between its two pieces, and for a fixed one its piece, less any multiple `beta` of
what its range says of its pre-activation. The least value of the plane over the region that holds
every nearer input is concave in neither, yet climbs fast; its gradient is one pass forward, from
the minimiser through the same lines. Everything here is in float32 and only a guess: `planes` makes
the multipliers proofs, whatever they are.
Source: Xu et al., Fast and complete (alpha-CROWN, 2021); Wang et al., Beta-CROWN (2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.ground import Ground
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.core.numerics import TINY

__all__ = ["Ascent", "Climbed", "Slopes"]

Single = NDArray[np.float32]

#: Adam's steps: the first one, what each is to the one before, and the two memories.
_RATE, _DECAY = 0.5, 0.9
_MEMORIES = (0.8, 0.9)
#: Nodes whose plane is above zero leave after so many steps.
_LOOK = 4


@dataclass(frozen=True, eq=False)
class Slopes:
    """Of nodes: `alpha`, lower lines' slopes, and `beta`, not negative; both `[B, U]`.

    Where total variation counts, `flows` of it too, `[B, E]`; E = 0 elsewhere.
    """

    alpha: Float[np.ndarray, "B U"]
    beta: Float[np.ndarray, "B U"]
    flows: Float[np.ndarray, "B E"]

    def one(self, at: int) -> Slopes:
        """Of one node, copied."""
        return Slopes(self.alpha[[at]], self.beta[[at]], self.flows[[at]].astype(np.float16))

    @classmethod
    def of(
        cls, ground: Ground, ranges: Ranges, flows: Float[np.ndarray, "*B E"] | None = None
    ) -> Slopes:
        """Where nothing is known: the nearer of a unit's two pieces, and some flows."""
        low, high = np.atleast_2d(ranges.low), np.atleast_2d(ranges.high)
        alpha = np.where(high > -low, 1.0, ground.slope).astype(np.float32)
        held = np.zeros(0) if flows is None else flows
        wide = np.broadcast_to(held, (len(alpha), held.shape[-1]))
        return cls(alpha, np.zeros_like(alpha), wide.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Climbed:
    """The best of each node.

    Attributes:
        multipliers: of the units' equations `[B, U]`.
        slopes: from which a child may start.
        given: what each free unit's chord gives away `[B, U]`, not negative.
        points: the plane's minimisers, as differences from the image `[B, D]`.
    """

    multipliers: Float[np.ndarray, "B U"]
    slopes: Slopes
    given: Float[np.ndarray, "B U"]
    points: Float[np.ndarray, "B D"]


@dataclass(frozen=True, eq=False)
class _Pass:
    """One evaluation: the planes' least values, and what they say of slopes."""

    values: Single
    multipliers: Single
    through: Single
    given: Single
    points: Single
    alpha: Single
    beta: Single


class Ascent:
    """Climbs on one ground.

    Args:
        ground: the network.
        reach: holds every input that counts.
    """

    def __init__(self, ground: Ground, reach: Reach) -> None:
        self._ground = ground
        self._reach = reach
        count = ground.inputs
        self._outer = np.ascontiguousarray(ground.weight[:, :count], dtype=np.float32)
        self._inner = np.ascontiguousarray(ground.weight[:, count:], dtype=np.float32)
        self._rows = ground.rows.astype(np.float32)
        self._offsets = ground.offsets.astype(np.float32)

    def climb(
        self, rows: Int[np.ndarray, "B"], ranges: Ranges, start: Slopes, steps: int
    ) -> Climbed:
        """Climb from a start; nodes whose planes are above zero stop early.

        Args:
            rows: each node's target.
            ranges: the nodes', `[B, U]`.
            start: see `Slopes`.
            steps: at most.
        """
        task = _Task(self, rows, ranges)
        state = _Adam(start)
        best = task.evaluate(state)
        scale = _scale(self._ground, best.through)
        kept = Slopes(state.alpha.copy(), state.beta.copy(), state.flows.copy())
        now, live = best, np.arange(len(rows))
        for step in range(steps):
            if step % _LOOK == 0:
                going = now.values <= 0
                if not going.any():
                    break
                if not going.all():
                    live, scale, now = live[going], scale[going], _taken(now, going)
                    task, state = task.taken(going), state.taken(going)
            state.move(now, scale, task, step)
            now = task.evaluate(state)
            better = now.values > best.values[live]
            at = live[better]
            for name in _Pass.__dataclass_fields__:
                getattr(best, name)[at] = getattr(now, name)[better]
            kept.alpha[at], kept.beta[at] = state.alpha[better], state.beta[better]
            kept.flows[at] = state.flows[better]
        return Climbed(
            best.multipliers.astype(np.float64), kept, best.given, best.points.astype(np.float64)
        )


class _Task:
    """Nodes' lines, and the two passes."""

    def __init__(self, ascent: Ascent, rows: Int[np.ndarray, "B"], ranges: Ranges) -> None:
        self._ascent = ascent
        self._rows = rows
        self._ranges = ranges
        self.ground = ascent._ground
        self.reach = ascent._reach
        low, high = ranges.low.astype(np.float32), ranges.high.astype(np.float32)
        slope = self.ground.slope.astype(np.float32)
        self.free = (low < 0) & (high > 0)
        on = low >= 0
        width = np.maximum(high - low, np.float32(TINY))
        fixed = np.where(on, np.float32(1), slope)
        self.chord = np.where(self.free, (high - slope * low) / width, fixed)
        self.lift = np.where(self.free, (slope - self.chord) * low, np.float32(0))
        self.sign = np.where(self.free, 0, np.where(on, 1, -1)).astype(np.float32)
        self.edge = np.where(self.free, 0, np.where(on, low, high)).astype(np.float32)

    def taken(self, chosen: NDArray[np.bool_]) -> _Task:
        """Some of the nodes."""
        ranges = Ranges(self._ranges.low[chosen], self._ranges.high[chosen])
        return _Task(self._ascent, self._rows[chosen], ranges)

    def evaluate(self, state: _Adam) -> _Pass:
        """Backward to the planes, forward from their minimisers."""
        ascent, layers = self._ascent, self.ground.layers
        alpha, beta = state.alpha, state.beta
        rows = ascent._rows[self._rows]
        count = self.ground.inputs
        through, y = rows[:, count:].copy(), np.zeros_like(alpha)
        line, lift = np.empty_like(alpha), np.empty_like(alpha)
        for layer in reversed(layers):
            above = through[:, layer] < 0
            lower = np.where(self.free[:, layer], alpha[:, layer], self.chord[:, layer])
            line[:, layer] = np.where(above, self.chord[:, layer], lower)
            lift[:, layer] = np.where(above, self.lift[:, layer], 0)
            pulled = beta[:, layer] * self.sign[:, layer]
            y[:, layer] = through[:, layer] * line[:, layer] - pulled
            through[:, : layer.start] += y[:, layer] @ ascent._inner[layer, : layer.start]
        slopes = rows[:, :count] + y @ ascent._outer
        points = ascent._reach.point(slopes, ascent._reach.tilted(state.flows))
        given = -through * lift
        bias = self.ground.bias.astype(np.float32)
        values = ascent._offsets[self._rows] + y @ bias + (slopes * points).sum(axis=1)
        values += (beta * self.sign * self.edge - given).sum(axis=1)
        z, h = points @ ascent._outer.T + bias, np.zeros_like(alpha)
        for layer in layers:
            z[:, layer] += h[:, : layer.start] @ ascent._inner[layer, : layer.start].T
            h[:, layer] = line[:, layer] * z[:, layer] + lift[:, layer]
        uphill = np.where(self.free & (through > 0), through * z, np.float32(0))
        return _Pass(
            values, y, through, given, points, uphill, self.sign * (self.edge - z)
        )  # fmt: skip


class _Adam:
    """Slopes on their way up."""

    def __init__(self, start: Slopes) -> None:
        self.alpha = start.alpha.astype(np.float32)
        self.beta = start.beta.astype(np.float32)
        self.flows = start.flows.astype(np.float32)
        self._first = np.zeros((2, *self.alpha.shape), dtype=np.float32)
        self._second = np.zeros_like(self._first)

    def taken(self, chosen: NDArray[np.bool_]) -> _Adam:
        """Some of the nodes."""
        part = _Adam(Slopes(self.alpha[chosen], self.beta[chosen], self.flows[chosen]))
        part._first, part._second = self._first[:, chosen], self._second[:, chosen]
        return part

    def move(self, now: _Pass, scale: Single, task: _Task, step: int) -> None:
        """One step, back into where slopes may be."""
        gradient = np.stack([now.alpha, now.beta * scale])
        fast, slow = _MEMORIES
        self._first = np.float32(fast) * self._first + np.float32(1 - fast) * gradient
        with np.errstate(over="ignore"):  # where infinite, the slope stays
            self._second = np.float32(slow) * self._second + np.float32(1 - slow) * gradient**2
        mean = self._first / np.float32(1 - fast ** (step + 1))
        size = np.sqrt(self._second / np.float32(1 - slow ** (step + 1)))
        moved = np.float32(_RATE * _DECAY**step) * mean / np.maximum(size, np.float32(TINY))
        self.alpha = np.clip(self.alpha + moved[0], task.ground.slope, 1).astype(np.float32)
        self.beta = np.maximum(self.beta + scale * moved[1], 0)
        if task.reach.variation is not None:
            self.flows = task.reach.climbed(self.flows, now.points, step)


def _scale(ground: Ground, through: Single) -> Single:
    """What coefficients are like in each unit's layer."""
    scale = np.zeros_like(through)
    for layer in ground.layers:
        scale[:, layer] = np.abs(through[:, layer]).mean(axis=1, keepdims=True)
    return scale


def _taken(now: _Pass, chosen: NDArray[np.bool_]) -> _Pass:
    return _Pass(*(getattr(now, name)[chosen] for name in _Pass.__dataclass_fields__))
