"""A binarized network with soft signs, on dense arrays: margins and their derivatives, many points.

Signs that the box fixes are folded into the layers behind. What is left is small, so that a step of
many points costs less than one pass through the network as it was given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.attacks.binarized.problem import BinarizedProblem
from closegap.core.numerics import TINY
from closegap.graph.binarized.intervals import interval_layer
from closegap.graph.binarized.linear_form import patch_matrix
from closegap.graph.binarized.records import Thresholds

__all__ = ["SoftNetwork", "soft_network"]

#: Entries of a layer's matrix, above which it is not made dense.
_MOST_ENTRIES = 1 << 22


@dataclass(frozen=True, eq=False)
class SoftNetwork:
    """Layers `slack = values @ slope + offset` of the signs that are free; a sign is +1 iff >= 0.

    All arrays are float32. Sums of signs are two apart; offsets behind the first layer put
    thresholds halfway between the sums on their two sides.

    Attributes:
        slopes: `[V, U]`, a layer each; V counts inputs at first, then free signs.
        offsets: `[U]`.
        widths: of each layer: how far its slacks typically move.
        rows: the property's rows as functions of the last free signs, `[Q, L]`.
        constants: what is added to them, `[Q]`.
        members: `[K, Q]`, which rows a clause has.
    """

    slopes: tuple[NDArray[np.float32], ...]
    offsets: tuple[NDArray[np.float32], ...]
    widths: tuple[float, ...]
    rows: Float32[np.ndarray, "Q L"]
    constants: Float32[np.ndarray, "Q"]
    members: Bool[np.ndarray, "K Q"]

    def margins(
        self,
        points: Float32[np.ndarray, "B D"],
        clause: Int[np.ndarray, "B"],
        softness: Float32[np.ndarray, "B"],
        hard: Bool[np.ndarray, "B"],
    ) -> tuple[Float32[np.ndarray, "B K"], Float32[np.ndarray, "B D"]]:
        """Margins under true signs, and how those of softened signs change with the inputs.

        A soft sign is `tanh(slack / (softness width))`. Where `hard`, values behind a sign are true
        and only its derivative is soft: a straight-through derivative.

        Args:
            points: inputs.
            clause: whose margin each point lowers.
            softness: of each point's signs.
            hard: of each point.

        Returns:
            the margins of all clauses, and the gradient of the point's own.
        """
        values = true = points
        falls, straight = [], hard[:, None]
        for slope, offset, width in zip(self.slopes, self.offsets, self.widths, strict=True):
            slack = values @ slope + offset
            exact = slack if values is true else true @ slope + offset
            scale = (1 / (width * softness))[:, None]
            soft = np.tanh(slack * scale)
            falls.append((1 - soft * soft) * scale)
            true = np.where(exact >= 0, np.float32(1), np.float32(-1))
            values = true if hard.all() else np.where(straight, true, soft)
        found = true @ self.rows.T + self.constants
        spread = np.where(self.members[None], found[:, None], -np.inf)
        own = spread[np.arange(len(points)), clause].argmax(axis=1)
        gradient = self.rows[own]
        for slope, fall in zip(reversed(self.slopes), reversed(falls), strict=True):
            gradient = (gradient * fall) @ slope.T
        return spread.max(axis=2), gradient


def soft_network(problem: BinarizedProblem) -> SoftNetwork | None:
    """The network on the problem's box; `None` where it pools or a layer is too large."""
    network, prop = problem.forward.network, problem.query.prop
    thresholds = [network.first.thresholds, *(h.thresholds for h in network.hidden)]
    if any(t.taken.shape[1] > 1 for t in thresholds):
        return None
    sizes = [len(problem.lower) * len(problem.free)]
    sizes += [h.patches.size * h.thresholds.units for h in network.hidden]
    if max(sizes) > _MOST_ENTRIES:
        return None
    middle = (problem.lower + problem.upper) / 2
    known = np.where(problem.bits(problem.sums.at(middle[None]))[0], 1, -1)
    known[problem.free] = 0
    slope = _slopes(problem.sums.matrix, thresholds[0], problem.free)
    first = thresholds[0]
    offset = first.sense[:, 0] * problem.sums.constant[first.taken[:, 0]] - first.high[:, 0]
    slopes, offsets = [slope], [offset[problem.free]]
    half = (problem.upper - problem.lower) / 2
    widths = [float((half @ np.abs(slope)).mean()) if len(problem.free) else 1.0]
    for layer in network.hidden:
        after = interval_layer(layer).signs(known[None])[0]
        free = np.flatnonzero(after == 0)
        wide = _slopes(patch_matrix(layer.patches), layer.thresholds, free)
        slopes.append(wide[known == 0])
        offsets.append(1 + known @ wide - layer.thresholds.high[free, 0])
        widths.append(float(np.sqrt(np.abs(wide).sum(axis=0).mean())) if len(free) else 1.0)
        known = after
    rows = (prop.rows * network.last.factor) @ network.last.weight
    fixed = prop.rows @ (network.last.factor * network.last.bias + network.last.offset)
    return SoftNetwork(
        slopes=tuple(s.astype(np.float32) for s in slopes),
        offsets=tuple(o.astype(np.float32) for o in offsets),
        widths=tuple(max(w, TINY) for w in widths),
        rows=rows[:, known == 0].astype(np.float32),
        constants=(fixed + rows @ known + prop.offsets).astype(np.float32),
        members=prop.membership,
    )


def _slopes(
    matrix: csr_array, thresholds: Thresholds, units: NDArray[np.int64]
) -> NDArray[np.float64]:
    """How the slack of these units rises with each variable, dense."""
    columns = csr_array(matrix[:, thresholds.taken[units, 0]])
    return np.asarray(columns.toarray() * thresholds.sense[units, 0])
