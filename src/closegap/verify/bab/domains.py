"""Batches of subdomains, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from closegap.verify.bab.walls import Walls

__all__ = ["DomainBatch", "DomainResult", "unit_walls"]


@dataclass(frozen=True, eq=False)
class DomainBatch:
    """B sets of activation constraints.

    Attributes:
        root: number of the root each belongs to, `[B]`.
        units: split units, padded with -1, `[B, depth]`.
        signs: +1 for `z >= point`, -1 for `z <= point`, `[B, depth]`.
        payload: warm start `[B, width]`, or `None`.
        points: where units are split, `[B, depth]`; `None` for zeros.
        boxes: that hold every counterexample, `[B, 2 D]`; `None` for the whole region.
    """

    root: Int[np.ndarray, "B"]
    units: Int[np.ndarray, "B depth"]
    signs: Int[np.ndarray, "B depth"]
    payload: NDArray[np.float32] | None = None
    points: Float[np.ndarray, "B depth"] | None = None
    boxes: NDArray[np.float64] | None = None

    def part(self, which: Int[np.ndarray, "M"]) -> DomainBatch:
        """Some of the sets."""
        payload = None if self.payload is None else self.payload[which]
        points = None if self.points is None else self.points[which]
        boxes = None if self.boxes is None else self.boxes[which]
        return DomainBatch(
            self.root[which], self.units[which], self.signs[which], payload, points, boxes
        )

    def children(
        self,
        which: Int[np.ndarray, "M"],
        units: Int[np.ndarray, "M"],
        sign: int,
        points: Float[np.ndarray, "M"],
    ) -> DomainBatch:
        """Some of the sets (repeats allowed) with one constraint more, and their warm starts."""
        known = np.zeros(self.units.shape) if self.points is None else self.points
        return DomainBatch(
            self.root[which],
            np.column_stack([units, self.units[which]]),
            np.column_stack([np.full(len(which), sign), self.signs[which]]),
            None if self.payload is None else self.payload[which],
            np.column_stack([points, known[which]]),
        )


def unit_walls(batch: DomainBatch, units: int) -> Walls:
    """Between which values each unit is held in each domain."""
    return Walls.of_splits(batch.units, batch.signs, batch.points, units)


@dataclass(frozen=True, eq=False)
class DomainResult:
    """What is known of each subdomain.

    Attributes:
        lower: proved lower bound of the clause's margin, float64 `[B]`.
        incoming: coefficient on each unit's output, averaged over rows, float64 `[B, U]`; with what
            joint constraints take over from the unit's own relaxation.
        unit_lower: bounds of each unit under the constraints, `[B, U]`.
        unit_upper: likewise.
        candidates: where the best row's linear bound is least, float64 `[B, *input shape]`.
        payload: warm start for the children, `[B, width]`.
        residual: `incoming` without what joint constraints take over, `[B, U]`; `None` where there
            are none.
        boxes: that hold every counterexample, `[B, 2 D]`; `None` where none are cut.
    """

    lower: NDArray[np.float64]
    incoming: Float[Tensor, "B U"]
    unit_lower: Float[Tensor, "B U"]
    unit_upper: Float[Tensor, "B U"]
    candidates: NDArray[np.float64]
    payload: NDArray[np.float32]
    residual: Float[Tensor, "B U"] | None = None
    boxes: NDArray[np.float64] | None = None

    def part(self, which: Int[np.ndarray, "M"]) -> DomainResult:
        """Of some of the subdomains."""
        residual = self.residual
        return DomainResult(
            lower=self.lower[which],
            incoming=self.incoming[which],
            unit_lower=self.unit_lower[which],
            unit_upper=self.unit_upper[which],
            candidates=self.candidates[which],
            payload=self.payload[which],
            residual=None if residual is None else residual[which],
            boxes=None if self.boxes is None else self.boxes[which],
        )
