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

from closegap.attacks.binarized.layer_task import CLEAR, NEAR, STRIDES, LayerTask
from closegap.core.numerics import TINY

__all__ = ["LayerLanes", "by_lanes", "influence"]

#: Steps between two weightings.
_WEIGHED = 10


@dataclass(frozen=True, eq=False)
class LayerLanes:
    """Meet targets: target `j` of lane `b` is met when `targets[b, j] * slack[j] >= gap[j]`.

    Attributes:
        layer: as if the target of each unit were 1; thresholds of integer sums lie halfway between
            two of them.
        targets: `[B, T]`: 1, -1, or 0 for none.
        worth: `[B, T]`: what meeting each target counts, positive.
    """

    layer: LayerTask
    targets: Float[np.ndarray, "B T"]
    worth: Float[np.ndarray, "B T"]

    def lane(self, which: int) -> LayerTask:
        """One lane by itself, every target it has worth the same, in float64."""
        layer, targets = self.layer, self.targets[which]
        asked = np.flatnonzero(targets)
        signs = targets[asked]
        return LayerTask(
            slope=(layer.slope[:, asked] * signs).astype(np.float64),
            slack=(signs * layer.slack[asked]).astype(np.float64),
            gap=layer.gap[asked].astype(np.float64),
            reference=layer.reference.astype(np.float64),
            lower=layer.lower.astype(np.float64),
            upper=layer.upper.astype(np.float64),
            integer=layer.integer,
        )

    def at(self, values: Float[np.ndarray, "B V"]) -> NDArray[np.floating]:
        """What each target has of slack at these values, in its direction; 0 without target."""
        return np.asarray(self.targets * self.layer.at(values))

    def score(
        self, values: Float[np.ndarray, "B V"], slack: Float[np.ndarray, "B T"]
    ) -> NDArray[np.floating]:
        """The worth of targets met, less a share of the least worth for leaving the reference."""
        met = ((slack >= self.layer.gap) * self.worth * np.abs(self.targets)).sum(axis=1)
        moved = (values != self.layer.reference).mean(axis=1)
        return np.asarray(met - moved * self.worth.min(axis=1, initial=1.0) / 2)


def by_lanes(task: LayerLanes, steps: int) -> NDArray[np.floating]:
    """Values `[B, V]` that meet as much as descent finds; never worth less than the reference.

    Inputs move by signs of the gradient, all of them at once; relaxed signs move in proportion to
    it, so that those flip first which targets need most.
    """
    layer = task.layer
    half, middle = (layer.upper - layer.lower) / 2, (layer.upper + layer.lower) / 2
    inverse = 1 / (half @ np.abs(layer.slope) + TINY)
    aimed, clear = task.targets * inverse, CLEAR * layer.gap * np.abs(task.targets)
    values = np.tile(layer.reference, (len(task.targets), 1))
    slack = task.at(values)
    best, most = values.copy(), task.score(values, slack)
    weights, momentum = task.worth, np.zeros_like(values)
    for step in range(steps):
        short = np.maximum(clear - slack, 0.0)
        if step % _WEIGHED == 0 and step:
            weights = task.worth / (NEAR + short * inverse)
        if not short.any():
            break
        momentum = 0.8 * momentum + (weights * (short > 0) * aimed) @ layer.slope.T
        share = STRIDES[0] + (STRIDES[1] - STRIDES[0]) * step / steps
        if layer.integer:
            move = momentum / (np.abs(momentum).max(axis=1, keepdims=True) + TINY)
        else:
            move = np.sign(momentum)
        values = np.clip(values + share * half * move, layer.lower, layer.upper)
        slack = task.at(values)
        fixed = np.where(values >= middle, layer.upper, layer.lower) if layer.integer else values
        score = task.score(fixed, task.at(fixed) if layer.integer else slack)
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
    reach = np.abs(task.layer.slope).sum(axis=0) + TINY
    near = task.worth / (NEAR + np.maximum(task.at(values), 0.0) / reach)
    held = np.maximum(values * ((near / reach * task.targets) @ task.layer.slope.T), 0.0)
    return np.asarray(floor + held / (held.mean(axis=1, keepdims=True) + TINY))
