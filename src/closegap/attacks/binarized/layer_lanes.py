"""One layer of target propagation for many sets of targets at once, by descent.

Lanes share the incumbent and the layer, and differ in the targets, so a step of all of them is two
products of matrices. Signs are relaxed to their interval and rounded at every step; what counts is
what the rounded ones meet. Source of the problem: Khalil, Gupta, Dilkina (2019), equations 9, 10.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.core.numerics import TINY

__all__ = ["LayerLanes", "by_lanes", "influence"]

#: Shortfall, as a share of the greatest, at which a target has lost half its weight.
_NEAR = 0.02
#: How far beyond its threshold a target is pushed, in gaps, so that rounding takes none back.
_CLEAR = 2.0
#: Steps between two weightings.
_WEIGHED = 10
#: The first step and the last one, as shares of the half-widths.
_STRIDES = (0.3, 0.03)


@dataclass(frozen=True, eq=False)
class LayerLanes:
    """Meet targets: target `j` of lane `b` is met when `targets[b, j] * slack[j] >= gap[j]`.

    Attributes:
        slope: `[V, T]`: how the slack of each unit rises with each variable.
        slack: `[T]`, at the reference; thresholds of integer sums lie halfway between two of them.
        gap: `[T]`, positive.
        targets: `[B, T]`: 1, -1, or 0 for none.
        worth: `[B, T]`: what meeting each target counts, positive.
        reference: `[V]`, the variables of the incumbent.
        lower, upper: `[V]`, their ends.
        integer: whether variables are at an end always.
    """

    slope: Float[np.ndarray, "V T"]
    slack: Float[np.ndarray, "T"]
    gap: Float[np.ndarray, "T"]
    targets: Float[np.ndarray, "B T"]
    worth: Float[np.ndarray, "B T"]
    reference: Float[np.ndarray, "V"]
    lower: Float[np.ndarray, "V"]
    upper: Float[np.ndarray, "V"]
    integer: bool

    def at(self, values: Float[np.ndarray, "B V"]) -> NDArray[np.floating]:
        """What each target has of slack at these values, in its direction; 0 without target."""
        slack = self.slack + (values - self.reference) @ self.slope
        return np.asarray(self.targets * slack)

    def score(
        self, values: Float[np.ndarray, "B V"], slack: Float[np.ndarray, "B T"]
    ) -> NDArray[np.floating]:
        """The worth of targets met, less a share of the least worth for leaving the reference."""
        met = ((slack >= self.gap) * self.worth * np.abs(self.targets)).sum(axis=1)
        moved = (values != self.reference).mean(axis=1)
        return np.asarray(met - moved * self.worth.min(axis=1, initial=1.0) / 2)


def by_lanes(task: LayerLanes, steps: int) -> NDArray[np.floating]:
    """Values `[B, V]` that meet as much as descent finds; never worth less than the reference.

    Inputs move by signs of the gradient, all of them at once; relaxed signs move in proportion to
    it, so that those flip first which targets need most.
    """
    half, middle = (task.upper - task.lower) / 2, (task.upper + task.lower) / 2
    inverse = 1 / (half @ np.abs(task.slope) + TINY)
    aimed, clear = task.targets * inverse, _CLEAR * task.gap * np.abs(task.targets)
    values = np.tile(task.reference, (len(task.targets), 1))
    slack = task.at(values)
    best, most = values.copy(), task.score(values, slack)
    weights, momentum = task.worth, np.zeros_like(values)
    for step in range(steps):
        short = np.maximum(clear - slack, 0.0)
        if step % _WEIGHED == 0 and step:
            weights = task.worth / (_NEAR + short * inverse)
        if not short.any():
            break
        momentum = 0.8 * momentum + (weights * (short > 0) * aimed) @ task.slope.T
        share = _STRIDES[0] + (_STRIDES[1] - _STRIDES[0]) * step / steps
        if task.integer:
            move = momentum / (np.abs(momentum).max(axis=1, keepdims=True) + TINY)
        else:
            move = np.sign(momentum)
        values = np.clip(values + share * half * move, task.lower, task.upper)
        slack = task.at(values)
        fixed = np.where(values >= middle, task.upper, task.lower) if task.integer else values
        score = task.score(fixed, task.at(fixed) if task.integer else slack)
        better = score > most
        best[better], most = fixed[better], np.maximum(score, most)
    return best


def influence(
    task: LayerLanes, values: Float[np.ndarray, "B V"], floor: float
) -> NDArray[np.floating]:
    """How much each variable's value holds the targets behind, those near their thresholds most.

    Args:
        task: the layer behind.
        values: its variables, as found.
        floor: what a variable without influence counts, of 1 for an average one.
    """
    reach = np.abs(task.slope).sum(axis=0) + TINY
    near = task.worth / (_NEAR + np.maximum(task.at(values), 0.0) / reach)
    held = np.maximum(values * ((near / reach * task.targets) @ task.slope.T), 0.0)
    return np.asarray(floor + held / (held.mean(axis=1, keepdims=True) + TINY))
