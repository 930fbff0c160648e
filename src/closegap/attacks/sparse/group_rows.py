"""Rows over groups of units, and what they come to in nodes.

A row `inner . z + outer . h >= limit` holds wherever an input of the ground counts, for the
pre-activations of the group lie in an octahedron that was bounded there. In a node only those of
its pieces count that have the node's phases, so limits rise (`bounds/multineuron/cuts.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_array, vstack

from closegap.attacks.sparse.ground import Ground
from closegap.attacks.sparse.planes import Joint, Ranges
from closegap.bounds.multineuron.cuts import HullCuts
from closegap.core.numerics import gamma

__all__ = ["GroupRows", "NodeRows"]


@dataclass(frozen=True, eq=False)
class GroupRows:
    """Rows over one ground's units.

    Attributes:
        sets: the rows; their groups' members are units.
        matrix: weights of `(z, h)`, `[R, 2 U]`.
        size: of each row's terms, the greatest magnitude, `[R]`.
    """

    sets: tuple[HullCuts, ...]
    matrix: csr_array
    size: Float[np.ndarray, "R"]

    @classmethod
    def of(cls, ground: Ground, sets: Sequence[HullCuts] = ()) -> GroupRows:
        """All rows of sets, in this order, but those that are not finite."""
        kept = tuple(part for cuts in sets if (part := _finite(cuts)) is not None)
        matrix = csr_array((0, 2 * ground.units))
        for cuts in kept:
            matrix = csr_array(vstack([matrix, _spread(cuts, ground.units)], format="csr"))
        tall = np.tile(ground.reach[ground.inputs :], 2)
        return cls(kept, matrix, np.asarray(4 * (abs(matrix) @ tall)))

    @property
    def count(self) -> int:
        """How many rows there are (R)."""
        return int(self.matrix.shape[0])

    @property
    def units(self) -> int:
        """How many units there are (U)."""
        return int(self.matrix.shape[1]) // 2

    @property
    def inner(self) -> Float[np.ndarray, "R U"]:
        """Weights of pre-activations."""
        return np.asarray(self.matrix.toarray()[:, : self.units])

    @property
    def outer(self) -> Float[np.ndarray, "R U"]:
        """Weights of outputs."""
        return np.asarray(self.matrix.toarray()[:, self.units :])

    def part(self, ground: Ground, kept: Bool[np.ndarray, "R"]) -> GroupRows:
        """Some of the rows, in this order."""
        ends = np.cumsum([0, *(cuts.size for cuts in self.sets)]).tolist()
        parts = [torch.as_tensor(np.flatnonzero(kept[a:b])) for a, b in pairwise(ends)]
        chosen = zip(self.sets, parts, strict=True)
        return GroupRows.of(ground, [cuts.part(at) for cuts, at in chosen if len(at)])

    def within(self, ranges: Ranges) -> NodeRows:
        """The rows in nodes `[B, U]`."""
        low, high = np.atleast_2d(ranges.low), np.atleast_2d(ranges.high)
        count = len(low)
        limits, none = [np.zeros((count, 0))], np.zeros(count, dtype=bool)
        signs = np.where(low >= 0, 1, np.where(high <= 0, -1, 0)).astype(np.int8)
        for cuts in self.sets:
            here, empty = cuts.restricted({cuts.hulls.feed: torch.as_tensor(signs)})
            limits.append(-np.asarray(here.rows.limits.expand(count, -1).numpy()))
            none |= False if empty is None else np.asarray(empty.numpy())
        return NodeRows(self, np.concatenate(limits, axis=1), none)


@dataclass(frozen=True, eq=False)
class NodeRows:
    """Rows in B nodes.

    Attributes:
        rows: on the whole ground.
        limits: `[B, R]`.
        empty: nodes that no input that counts is in, `[B]`.
    """

    rows: GroupRows
    limits: Float[np.ndarray, "B R"]
    empty: Bool[np.ndarray, "B"]

    def weighed(self, multipliers: Float[np.ndarray, "B R"]) -> Joint | None:
        """What rows add to the nodes' functions; `None` where there are none.

        Args:
            multipliers: of the rows; those that are not positive count as zero.
        """
        rows = self.rows
        if not rows.count:
            return None
        known = np.isfinite(multipliers) & (multipliers > 0)
        weights = np.where(known, multipliers, 0.0).astype(np.float64)
        total = weights @ rows.size + (weights * np.abs(self.limits)).sum(axis=1)
        both = np.asarray((rows.matrix.T @ weights.T).T)
        return Joint(
            inner=both[:, : rows.units],
            outer=both[:, rows.units :],
            constant=(weights * self.limits).sum(axis=1),
            lost=16 * gamma(2 * (rows.count + rows.units) + 32) * total,
        )


def _spread(cuts: HullCuts, units: int) -> csr_array:
    """Weights `[R, 2 U]`."""
    members = np.asarray(cuts.hulls.members[cuts.owner].numpy())
    columns = np.concatenate([members, units + members], axis=1)
    rows = np.arange(len(members)).repeat(columns.shape[1])
    weights = np.asarray(cuts.normals.numpy()).reshape(-1)
    return csr_array((weights, (rows, columns.reshape(-1))), shape=(len(members), 2 * units))


def _finite(cuts: HullCuts) -> HullCuts | None:
    """The rows that are numbers."""
    good = cuts.normals.isfinite().all(dim=1) & cuts.least.isfinite().all(dim=1)
    if bool(good.all()):
        return cuts
    return cuts.part(good.nonzero()[:, 0]) if bool(good.any()) else None
