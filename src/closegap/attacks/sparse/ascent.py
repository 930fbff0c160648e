"""Multipliers of many nodes at once, by ascent on slopes and on fixed phases.

A node's plane is a backward pass through its units: above a free unit its chord, below it a line of
any slope `alpha` between its two pieces, and for a fixed one its piece, less any multiple `beta` of
what its range says of its pre-activation; rows over groups of units (`group_rows`) have multipliers
that act on coefficients of both. The least value of the plane over the region that holds
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
from scipy.sparse import csr_array

from closegap.attacks.sparse.ground import Ground
from closegap.attacks.sparse.group_rows import GroupRows, NodeRows
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.reach import Reach
from closegap.core.budget import Budget
from closegap.core.numerics import TINY

__all__ = ["Ascent", "Climbed", "Resting", "Slopes"]

Single = NDArray[np.float32]

#: Adam's steps: the first one, what each is to the one before, and the two memories.
_RATE, _DECAY = 0.5, 0.9
#: Steps of multipliers of rows over groups, to those of others.
_JOINT_RATE = 0.3
_MEMORIES = (0.8, 0.9)
#: Steps are shorter by the share of phases that are fixed, down to this: deep nodes begin where
#: their parents ended, and long steps only lead away from there.
_SLOWEST = 0.2
#: Nodes whose plane is above zero leave after so many steps.
_LOOK = 4


@dataclass(frozen=True, eq=False)
class Slopes:
    """Of nodes: `alpha`, lower lines' slopes, and `beta`, not negative; both `[B, U]`.

    Where total variation counts, `flows` of it too, `[B, E]`; E = 0 elsewhere. Multipliers of rows
    over groups are `joint`, `[B, R]`, not negative; NaN where nothing is known.
    """

    alpha: Float[np.ndarray, "B U"]
    beta: Float[np.ndarray, "B U"]
    flows: Float[np.ndarray, "B E"]
    joint: Float[np.ndarray, "B R"]

    def one(self, at: int) -> Slopes:
        """Of one node, copied."""
        flows = self.flows[[at]].astype(np.float16)
        return Slopes(self.alpha[[at]], self.beta[[at]], flows, self.joint[[at]])

    def select(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Slopes:
        """Of some nodes."""
        return Slopes(self.alpha[which], self.beta[which], self.flows[which], self.joint[which])

    @classmethod
    def of(
        cls, ground: Ground, ranges: Ranges, flows: Float[np.ndarray, "*B E"] | None = None
    ) -> Slopes:
        """Where nothing is known: the nearer of a unit's two pieces, and some flows."""
        low, high = np.atleast_2d(ranges.low), np.atleast_2d(ranges.high)
        alpha = np.where(high > -low, 1.0, ground.slope).astype(np.float32)
        held = np.zeros(0) if flows is None else flows
        wide = np.broadcast_to(held, (len(alpha), held.shape[-1]))
        none = np.zeros((len(alpha), 0), dtype=np.float32)
        return cls(alpha, np.zeros_like(alpha), wide.astype(np.float32), none)


@dataclass(frozen=True, eq=False)
class Climbed:
    """The best of each node.

    Attributes:
        multipliers: of the units' equations `[B, U]`.
        slopes: from which a child may start.
        given: what each free unit's chord gives away `[B, U]`, not negative.
        points: the plane's minimisers, as differences from the image `[B, D]`.
        values: the planes there `[B]`.
    """

    multipliers: Float[np.ndarray, "B U"]
    slopes: Slopes
    given: Float[np.ndarray, "B U"]
    points: Float[np.ndarray, "B D"]
    values: Float[np.ndarray, "B"]


@dataclass(frozen=True, eq=False)
class Resting:
    """Where nodes' bounds rest, and what they pay there; `[B, U]`.

    Attributes:
        inputs, outputs: of the units, at the planes' minimisers.
        prices: of the outputs, not negative.
    """

    inputs: Float[np.ndarray, "B U"]
    outputs: Float[np.ndarray, "B U"]
    prices: Float[np.ndarray, "B U"]


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
    joint: Single
    inputs: Single
    outputs: Single


class Ascent:
    """Climbs on one ground.

    Args:
        ground: the network.
        reach: holds every input that counts.
        rows: over groups of its units.
        budget: its deadline ends a climb after the step that is being taken.
    """

    def __init__(self, ground: Ground, reach: Reach, rows: GroupRows, budget: Budget) -> None:
        self._ground = ground
        self._budget = budget
        self._joint = csr_array(rows.matrix.astype(np.float32))
        self._spread = csr_array(self._joint.T)
        inner = np.abs(rows.inner) + np.abs(rows.outer)
        self._first = inner.argmax(axis=1) if inner.size else np.zeros(len(inner), dtype=np.int64)
        self._tall = np.maximum(inner.max(axis=1, initial=0.0), TINY).astype(np.float32)
        self._reach = reach
        count = ground.inputs
        self._outer = np.ascontiguousarray(ground.weight[:, :count], dtype=np.float32)
        self._inner = np.ascontiguousarray(ground.weight[:, count:], dtype=np.float32)
        self._rows = ground.rows.astype(np.float32)
        self._offsets = ground.offsets.astype(np.float32)

    def pulled(self, weights: Single) -> Single:
        """Of the rows weighted, the coefficients of all units' inputs and outputs `[B, 2 U]`."""
        return np.asarray((self._spread @ weights.T).T)

    def summed(self, inputs: Single, outputs: Single) -> Single:
        """The rows' values at units' inputs and outputs `[B, R]`."""
        return np.asarray((self._joint @ np.concatenate([inputs, outputs], axis=1).T).T)

    def resting(
        self, rows: Int[np.ndarray, "B"], ranges: Ranges, slopes: Slopes, held: NodeRows
    ) -> Resting:
        """Where the nodes' bounds rest."""
        found = _Task(self, rows, ranges, held.limits).evaluate(_Adam(slopes))
        return Resting(found.inputs, found.outputs, np.abs(found.through))

    def climb(
        self,
        rows: Int[np.ndarray, "B"],
        ranges: Ranges,
        start: Slopes,
        steps: int,
        held: NodeRows,
    ) -> Climbed:
        """Climb from a start; nodes whose planes are above zero stop early.

        Args:
            rows: each node's target.
            ranges: the nodes', `[B, U]`.
            start: see `Slopes`.
            steps: at most.
            held: the rows over groups, in these nodes.
        """
        task = _Task(self, rows, ranges, held.limits)
        state = _Adam(start)
        best = task.evaluate(state)
        scale = _scale(self._ground, best.through)
        kept = state.slopes()
        now, live = best, np.arange(len(rows))
        for step in range(steps):
            if self._budget.expired:
                break
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
            kept.flows[at], kept.joint[at] = state.flows[better], state.joint[better]
        return Climbed(
            best.multipliers.astype(np.float64),
            kept,
            best.given,
            best.points.astype(np.float64),
            best.values,
        )


class _Task:
    """Nodes' lines, and the two passes."""

    def __init__(
        self,
        ascent: Ascent,
        rows: Int[np.ndarray, "B"],
        ranges: Ranges,
        limits: NDArray[np.floating],
    ) -> None:
        self._ascent = ascent
        self.limits = limits.astype(np.float32)
        self._rows = rows
        self._ranges = ranges
        self.ground = ascent._ground
        self.reach = ascent._reach
        low, high = ranges.low.astype(np.float32), ranges.high.astype(np.float32)
        slope = self.ground.slope.astype(np.float32)
        self.free = (low < 0) & (high > 0)
        share = self.free.sum(axis=1, keepdims=True) / max(self.ground.units, 1)
        self.pace = np.clip(share, _SLOWEST, 1).astype(np.float32)
        on = low >= 0
        width = np.maximum(high - low, np.float32(TINY))
        fixed = np.where(on, np.float32(1), slope)
        self.chord = np.where(self.free, (high - slope * low) / width, fixed)
        self.lift = np.where(self.free, (slope - self.chord) * low, np.float32(0))
        self.sign = np.where(self.free, 0, np.where(on, 1, -1)).astype(np.float32)
        self.edge = np.where(self.free, 0, np.where(on, low, high)).astype(np.float32)

    def units(self, scale: Single) -> Single:
        """What multipliers of rows are like, by what coefficients are like `[B, R]`."""
        ascent = self._ascent
        return np.asarray(scale[:, ascent._first] / ascent._tall, dtype=np.float32)

    def taken(self, chosen: NDArray[np.bool_]) -> _Task:
        """Some of the nodes."""
        ranges = Ranges(self._ranges.low[chosen], self._ranges.high[chosen])
        return _Task(self._ascent, self._rows[chosen], ranges, self.limits[chosen])

    def evaluate(self, state: _Adam) -> _Pass:
        """Backward to the planes, forward from their minimisers."""
        ascent, layers = self._ascent, self.ground.layers
        alpha, beta = state.alpha, state.beta
        rows = ascent._rows[self._rows]
        count = self.ground.inputs
        through, y = rows[:, count:].copy(), np.zeros_like(alpha)
        line, lift = np.empty_like(alpha), np.empty_like(alpha)
        units = self.ground.units
        pull = ascent.pulled(state.joint)
        inner, through = pull[:, :units], through - pull[:, units:]
        for layer in reversed(layers):
            above = through[:, layer] < 0
            lower = np.where(self.free[:, layer], alpha[:, layer], self.chord[:, layer])
            line[:, layer] = np.where(above, self.chord[:, layer], lower)
            lift[:, layer] = np.where(above, self.lift[:, layer], 0)
            pulled = beta[:, layer] * self.sign[:, layer]
            y[:, layer] = through[:, layer] * line[:, layer] - pulled - inner[:, layer]
            through[:, : layer.start] += y[:, layer] @ ascent._inner[layer, : layer.start]
        slopes = rows[:, :count] + y @ ascent._outer
        points = ascent._reach.point(slopes, ascent._reach.tilted(state.flows))
        given = -through * lift
        bias = self.ground.bias.astype(np.float32)
        values = ascent._offsets[self._rows] + y @ bias + (slopes * points).sum(axis=1)
        values += (beta * self.sign * self.edge - given).sum(axis=1)
        values += (state.joint * self.limits).sum(axis=1)
        z, h = points @ ascent._outer.T + bias, np.zeros_like(alpha)
        for layer in layers:
            z[:, layer] += h[:, : layer.start] @ ascent._inner[layer, : layer.start].T
            h[:, layer] = line[:, layer] * z[:, layer] + lift[:, layer]
        uphill = np.where(self.free & (through > 0), through * z, np.float32(0))
        off = self.limits - ascent.summed(z, h)
        return _Pass(
            values, y, through, given, points, uphill, self.sign * (self.edge - z), off, z, h
        )


class _Moments:
    """Of one parameter's gradients, the running mean and the mean of squares."""

    def __init__(self, first: Single, second: Single) -> None:
        self.first, self.second = first, second

    def taken(self, chosen: NDArray[np.bool_]) -> _Moments:
        """Of some of the nodes, which are the last axis but one."""
        return _Moments(self.first[..., chosen, :], self.second[..., chosen, :])

    def move(self, gradient: Single, step: int) -> Single:
        """By how much to move."""
        fast, slow = _MEMORIES
        self.first = np.float32(fast) * self.first + np.float32(1 - fast) * gradient
        with np.errstate(over="ignore"):  # where infinite, the slope stays
            self.second = np.float32(slow) * self.second + np.float32(1 - slow) * gradient**2
        mean = self.first / np.float32(1 - fast ** (step + 1))
        size = np.sqrt(self.second / np.float32(1 - slow ** (step + 1)))
        return np.asarray(np.float32(_RATE * _DECAY**step) * mean / np.maximum(size, TINY))


class _Adam:
    """Slopes on their way up."""

    def __init__(self, start: Slopes) -> None:
        self.alpha = start.alpha.astype(np.float32)
        self.beta = start.beta.astype(np.float32)
        self.flows = start.flows.astype(np.float32)
        self.joint = start.joint.astype(np.float32)
        none = np.zeros((2, *self.alpha.shape), dtype=np.float32)
        self._lines = _Moments(none, none)
        self._rows = _Moments(np.zeros_like(self.joint), np.zeros_like(self.joint))

    def slopes(self) -> Slopes:
        """As they are, copied."""
        held = (self.alpha, self.beta, self.flows, self.joint)
        return Slopes(*(side.copy() for side in held))

    def taken(self, chosen: NDArray[np.bool_]) -> _Adam:
        """Some of the nodes."""
        held = Slopes(self.alpha, self.beta, self.flows, self.joint)
        part = _Adam(held.select(chosen))
        part._lines, part._rows = self._lines.taken(chosen), self._rows.taken(chosen)
        return part

    def move(self, now: _Pass, scale: Single, task: _Task, step: int) -> None:
        """One step, back into where slopes may be."""
        moved = self._lines.move(np.stack([now.alpha, now.beta * scale]), step) * task.pace
        self.alpha = np.clip(self.alpha + moved[0], task.ground.slope, 1).astype(np.float32)
        self.beta = np.maximum(self.beta + scale * moved[1], 0)
        if self.joint.shape[1]:
            units = task.units(scale)
            moved = self._rows.move(now.joint * units, step)
            self.joint = np.maximum(self.joint + np.float32(_JOINT_RATE) * units * moved, 0)
        if task.reach.variation is not None:
            self.flows = task.reach.climbed(self.flows, now.points, step, task.pace)


def _scale(ground: Ground, through: Single) -> Single:
    """What coefficients are like in each unit's layer."""
    scale = np.zeros_like(through)
    for layer in ground.layers:
        scale[:, layer] = np.abs(through[:, layer]).mean(axis=1, keepdims=True)
    return scale


def _taken(now: _Pass, chosen: NDArray[np.bool_]) -> _Pass:
    return _Pass(*(getattr(now, name)[chosen] for name in _Pass.__dataclass_fields__))
