"""A convex quadratic program with a diagonal Hessian, whatever solves it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from closegap.mip.model import Array, Claim

__all__ = ["QuadraticModel"]


@dataclass(frozen=True, eq=False)
class QuadraticModel:
    """Minimise `v . (curvature * v) / 2 + cost . v` over rows and a box.

    Attributes:
        curvature: the Hessian's diagonal `[V]`, not negative.
        cost: `[V]`.
        matrix: rows `[R, V]`.
        row_lower, row_upper: `[R]`, infinite where a side is open.
        lower, upper: `[V]`.
    """

    curvature: Array
    cost: Array
    matrix: csr_array
    row_lower: Array
    row_upper: Array
    lower: Array
    upper: Array

    def objective(self, point: Array) -> float:
        """The objective at a point `[V]`."""
        return float(point @ (self.curvature * point) / 2 + self.cost @ point)

    def violation(self, claim: Claim) -> float:
        """How far the claim's point leaves rows or box; infinity without a point."""
        if claim.point is None:
            return float("inf")
        rows = self.matrix @ claim.point
        gaps = (
            self.lower - claim.point,
            claim.point - self.upper,
            self.row_lower - rows,
            rows - self.row_upper,
        )
        return max(float(np.max(gap, initial=0.0)) for gap in gaps)
