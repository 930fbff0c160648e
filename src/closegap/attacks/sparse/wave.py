"""Many open nodes at once: bounds by ascent, ranges of their units, and what to split next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from closegap.attacks.sparse.ascent import Climbed, Slopes
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.planes import Ranges

__all__ = ["Front", "Limits", "bounded_front", "started"]


@dataclass(frozen=True, eq=False)
class Limits:
    """How long to bound.

    Attributes:
        steps: of the ascent, for one node.
        cutoff: nodes with a bound this high are done.
        again: whose units are bounded again, `[B]`.
    """

    steps: int
    cutoff: float
    again: Bool[np.ndarray, "B"]


@dataclass(frozen=True, eq=False)
class Front:
    """What one pass showed of B nodes.

    Attributes:
        lower: proved bounds.
        ranges: of the units wherever an input counts, `[B, U]`.
        given: what open phases cost the planes, `[B, U]`; -1 where they are fixed.
        climbed: slopes, and where the planes are least.
    """

    lower: Float[np.ndarray, "B"]
    ranges: Ranges
    given: Float[np.ndarray, "B U"]
    climbed: Climbed


def bounded_front(
    nodes: Nodes,
    rows: Int[np.ndarray, "B"],
    ranges: Ranges,
    start: Slopes,
    limits: Limits,
) -> Front:
    """Bound nodes; those that stay open bound their units again.

    Args:
        nodes: of the ground.
        rows: the nodes' targets.
        ranges: of the nodes.
        start: where to climb from.
        limits: when to stop.
    """
    lower, climbed, proof = nodes.climbed(rows, ranges, start, limits.steps)
    left = np.flatnonzero((lower < limits.cutoff) & limits.again)
    if len(left):
        tight = nodes.rebounded(ranges.select(left), proof.select(left))
        low, high = ranges.low.copy(), ranges.high.copy()
        low[left], high[left] = tight.low, tight.high
        ranges = Ranges(low, high)
        beyond = (low > high).any(axis=1)  # nothing there is nearer than the limit
        lower = np.where(beyond, np.maximum(lower, nodes.ground.limit), lower)
    return Front(lower, ranges, np.where(ranges.free, climbed.given, -1.0), climbed)


def started(nodes: Nodes, ranges: Ranges, parents: Sequence[Slopes | None]) -> Slopes:
    """Slopes of the nodes' parents, where they are known."""
    start = nodes.start(ranges)
    for at, slopes in enumerate(parents):
        if slopes is not None:
            start.alpha[at] = slopes.alpha[0]
            start.beta[at] = slopes.beta[0]
            start.flows[at] = slopes.flows[0]
            start.joint[at, : slopes.joint.shape[1]] = slopes.joint[0]
    return start
