"""Moves of a search among the first layer's signs: push one unit over its threshold.

For every candidate a unit is drawn, those near their thresholds first, and a random block of inputs
is moved to the ends of the box that push it over. The sums follow by the block alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.attacks.binarized.problem import BinarizedProblem
from closegap.core.numerics import TINY

__all__ = ["Moves", "propose", "push"]


@dataclass(frozen=True, eq=False)
class Moves:
    """Changes of B points.

    Attributes:
        change: of the inputs, sparse `[B, D]`.
        sums: of the first layer, after the change.
    """

    change: csr_array
    sums: Float[np.ndarray, "B S"]


def propose(
    problem: BinarizedProblem,
    points: Float[np.ndarray, "B D"],
    sums: Float[np.ndarray, "B S"],
    random: np.random.Generator,
) -> Moves:
    """One random move for each point."""
    thresholds = problem.forward.network.first.thresholds
    slack = thresholds.slack(sums)[:, problem.free]
    scale = np.median(np.abs(slack), axis=1, keepdims=True) / 2 + TINY
    keys = random.gumbel(size=slack.shape) - np.abs(slack) / scale
    units = problem.free[keys.argmax(axis=1)]
    return push(problem, points, sums, units, random)


def push(
    problem: BinarizedProblem,
    points: Float[np.ndarray, "B D"],
    sums: Float[np.ndarray, "B S"],
    units: Int[np.ndarray, "B"],
    random: np.random.Generator,
) -> Moves:
    """Move a random block of each point's inputs so that its unit changes sign, if it can.

    Of a unit that pools several sums, the one nearest to deciding is pushed.
    """
    which, direction, need = _wanted(problem, sums, units)
    source, slope = _reads(problem, which)
    rows = np.arange(len(points))[:, None]
    now = points[rows, source]
    up = direction[:, None] * slope > 0
    change = np.where(up, problem.upper[source], problem.lower[source]) - now
    gain = direction[:, None] * slope * change
    keys = np.where(gain > 0, random.random(gain.shape), np.inf)
    order = np.argsort(keys, axis=1)
    gained = np.cumsum(np.take_along_axis(gain, order, axis=1), axis=1)
    before = gained - np.take_along_axis(gain, order, axis=1)
    chosen = np.zeros(gain.shape, dtype=bool)
    np.put_along_axis(chosen, order, before < need[:, None], axis=1)
    chosen &= gain > 0
    at = np.broadcast_to(rows, chosen.shape)[chosen], source[chosen]
    block = csr_array((change[chosen], at), shape=points.shape)
    return Moves(block, sums + problem.sums.rise(block))


def _wanted(
    problem: BinarizedProblem, sums: NDArray[np.float64], units: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The sum to push, the direction, and by how much at least; each `[B]`."""
    thresholds = problem.forward.network.first.thresholds
    rows = np.arange(len(units))
    taken, sense = thresholds.taken[units], thresholds.sense[units]
    slack = sense * sums[rows[:, None], taken] - thresholds.high[units]
    place = np.where(thresholds.any_of[units], slack.argmax(axis=1), slack.argmin(axis=1))
    which, held = taken[rows, place], slack[rows, place]
    wanted = np.where(held >= 0, -1.0, 1.0)
    need = np.abs(held) + problem.gap[which]
    return which, wanted * sense[rows, place], need


def _reads(
    problem: BinarizedProblem, which: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Inputs that the sums read and their slopes, `[B, F]`; slope 0 for padding."""
    first = problem.forward.network.first
    channel, place = np.divmod(which, len(first.patches.gather))
    entries = first.patches.gather[place]
    source = first.source[entries]
    slope = first.patches.weight[channel].copy()
    for factor, _ in first.steps:
        slope *= factor[entries]
    slope[(entries < 0) | (source < 0)] = 0.0
    return np.maximum(source, 0), slope
