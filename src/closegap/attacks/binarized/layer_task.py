"""One layer of target propagation: variables that give as many signs as possible their target.

Variables are the signs before the layer, or the inputs; each may jump to either end of its range.
Source: Khalil, Gupta, Dilkina, Combinatorial Attacks on Binarized Neural Networks (ICLR 2019),
equations 9 and 10, with the distance to the incumbent as tie-breaker (section 4.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.core.numerics import TINY
from closegap.mip.model import Model, SolveOptions
from closegap.mip.registry import choose

__all__ = ["CLEAR", "NEAR", "STRIDES", "LayerTask", "by_descent", "by_program", "by_search"]

#: What a target that is met counts beside how near the others are.
_MET = 4.0
#: Jumps without a better count, after which a search ends.
_PATIENCE = 40
#: Shortfall, as a share of the greatest, at which a target has lost half its weight.
NEAR = 0.02
#: How far beyond its threshold a target is pushed, in gaps, so that rounding takes none back.
CLEAR = 2.0
#: Steps between two weightings of a descent.
_WEIGHED = 25
#: The first step of a descent and its last one, as shares of the half-widths.
STRIDES = (0.3, 0.03)


@dataclass(frozen=True, eq=False)
class LayerTask:
    """Meet as many targets as possible: target `j` is met when `slack[j] >= gap[j]`.

    Attributes:
        slope: `[V, T]`: how the slack of each target rises with each variable.
        slack: `[T]`, at the reference.
        gap: `[T]`, positive.
        reference: `[V]`, the variables of the incumbent.
        lower, upper: `[V]`, their ends.
        integer: whether variables are at an end always.
    """

    slope: Float[np.ndarray, "V T"]
    slack: Float[np.ndarray, "T"]
    gap: Float[np.ndarray, "T"]
    reference: Float[np.ndarray, "V"]
    lower: Float[np.ndarray, "V"]
    upper: Float[np.ndarray, "V"]
    integer: bool

    def at(self, values: Float[np.ndarray, "*B V"]) -> NDArray[np.floating]:
        """The targets' slack at other values, `[*B, T]`."""
        return np.asarray(self.slack + (values - self.reference) @ self.slope)

    def worth(self, values: Float[np.ndarray, "V"]) -> float:
        """Targets met, less a share below one for the distance to the reference."""
        met = int((self.at(values) >= self.gap).sum())
        moved = int((values != self.reference).sum())
        return met - moved / (len(values) + 1)


def by_search(
    task: LayerTask, random: np.random.Generator, steps: int = 150
) -> NDArray[np.float64]:
    """Weighted search by single jumps; targets that stay unmet gain weight.

    Returns:
        the best values it passed through, the reference if none is better.
    """
    values, slack = task.reference.copy(), task.slack.copy()
    best, most = values.copy(), task.worth(values)
    weights, scale = np.ones(len(slack)), np.abs(task.slope).max(axis=0, initial=0.0) + TINY
    allowed, last = np.zeros(len(values), dtype=np.int64), 0
    for step in range(steps):
        if (slack >= task.gap).all() or step - last > _PATIENCE:
            break
        jumps = np.stack([task.lower - values, task.upper - values])
        if task.integer:
            jumps = jumps.sum(axis=0, keepdims=True)
        after = slack + jumps[:, :, None] * task.slope
        short = np.minimum(after - task.gap, 0.0)
        score = (_MET * (short >= 0) + np.maximum(short / scale, -_MET)) @ weights
        score[(jumps == 0) | (allowed > step)] = -np.inf
        score += random.random(score.shape) * TINY
        end, place = np.unravel_index(int(score.argmax()), score.shape)
        if not np.isfinite(score[end, place]):
            break
        values[place] += jumps[end, place]
        slack = after[end, place]
        allowed[place] = step + 1 + random.integers(3, 10)
        weights[slack < task.gap] += 1 / len(slack)
        worth = task.worth(values)
        if worth > most:
            best, most, last = values.copy(), worth, step
    return best


def by_descent(task: LayerTask, steps: int = 150) -> NDArray[np.float64]:
    """Signed descent of what real variables lack of their targets, all of them moving at once.

    What targets are short of counts by shares of the greatest shortfall there may be; from time to
    time those far from met lose weight, so that in the end the number of targets met counts.

    Returns:
        the best values it passed through, the reference if none is better.
    """
    half = (task.upper - task.lower) / 2
    reach = half @ np.abs(task.slope) + TINY
    values, best, most = task.reference, task.reference, task.worth(task.reference)
    weights, momentum = np.ones(len(reach)), np.zeros(len(values))
    for step in range(steps):
        short = np.maximum(CLEAR * task.gap - task.at(values), 0.0) / reach
        if step % _WEIGHED == 0 and step:
            weights = 1.0 / (NEAR + short)
        if not short.any():
            break
        momentum = 0.8 * momentum + task.slope @ (weights / reach * (short > 0))
        share = STRIDES[0] + (STRIDES[1] - STRIDES[0]) * step / steps
        values = np.clip(values + share * half * np.sign(momentum), task.lower, task.upper)
        worth = task.worth(values)
        if worth > most:
            best, most = values, worth
    return best


def by_program(
    task: LayerTask, seconds: float, start: Float[np.ndarray, "V"]
) -> NDArray[np.float64]:
    """The same by an integer program, from a start; the start again where nothing better is found.

    Columns are shares of each variable's range, a binary a target, and for inputs nothing more: how
    far they move breaks no tie there.
    """
    width = task.upper - task.lower
    slope, count = task.slope * width[:, None], len(task.slack)
    base = task.at(task.lower)
    least = base + np.minimum(slope, 0.0).sum(axis=0)
    # base + slope' v >= gap - (gap - least)(1 - m)
    rise = np.maximum(task.gap - least, 0.0)
    matrix = csr_array(np.hstack([slope.T, -np.diag(rise)]))
    tie = 1.0 / (len(width) + 1)
    up = task.reference == task.upper
    model = Model(
        cost=np.append(
            np.where(up, -tie, tie) if task.integer else np.zeros(len(width)), -np.ones(count)
        ),
        matrix=matrix,
        row_lower=task.gap - rise - base,
        row_upper=np.full(count, np.inf),
        lower=np.zeros(len(width) + count),
        upper=np.ones(len(width) + count),
        integer=np.append(np.full(len(width), task.integer), np.ones(count, dtype=bool)),
    )
    share = (start - task.lower) / np.where(width > 0, width, 1.0)
    met = (task.at(start) >= task.gap).astype(np.float64)
    backend, _ = choose("mip")
    claim = backend.solve(
        model, SolveOptions(time_limit=seconds, start=np.concatenate([share, met]))
    )
    if claim.point is None:
        return start
    found = np.clip(claim.point[: len(width)], 0.0, 1.0)
    values = task.lower + width * (np.rint(found) if task.integer else found)
    return values if task.worth(values) > task.worth(start) else start
