"""A convex quadratic program with second-order cones, whatever solves it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from closegap.mip.model import Array, Claim, Model, Status
from closegap.mip.quadratic import QuadraticModel

__all__ = ["ConicModel"]


@dataclass(frozen=True, eq=False)
class ConicModel:
    """A quadratic program, a constant, and cones: `w[0] >= ||w[1:]||_2` for each block of `w`.

    `w = cones @ v + offsets` are affine functions of the columns, M of them, block after block.

    Attributes:
        quadratic: cost, rows and box.
        cones: csr `[M, V]`.
        offsets: `[M]`.
        sizes: of the blocks, each at least 1; their sum is M.
        constant: added to every objective and bound.

    Raises:
        ValueError: the sizes do not fit.
    """

    quadratic: QuadraticModel
    cones: csr_array
    offsets: Array
    sizes: tuple[int, ...] = ()
    constant: float = 0.0

    def __post_init__(self) -> None:
        wanted = (sum(self.sizes), len(self.quadratic.cost))
        if self.cones.shape != wanted or self.offsets.shape != wanted[:1]:
            raise ValueError(f"cones {self.cones.shape}, {self.offsets.shape} should be {wanted}")
        if min(self.sizes, default=1) < 1:
            raise ValueError(f"a cone has {min(self.sizes)} rows; each needs at least 1")

    @classmethod
    def of(cls, model: Model) -> ConicModel:
        """A model without integers; each of its cones is a block, its bound first."""
        picked = [np.append(cone.bound, cone.columns) for cone in model.cones]
        sizes = tuple(len(columns) for columns in picked)
        entries = np.concatenate([np.zeros(0, dtype=np.int64), *picked])
        count = len(entries)
        cones = csr_array(
            (np.ones(count), (np.arange(count), entries)), shape=(count, model.columns)
        )
        quadratic = QuadraticModel(
            np.zeros(model.columns), model.cost, model.matrix, model.row_lower, model.row_upper,
            model.lower, model.upper,
        )  # fmt: skip
        return cls(quadratic, cones, np.zeros(count), sizes, model.constant)

    def objective(self, point: Array) -> float:
        """The objective at a point `[V]`, constant included."""
        return self.quadratic.objective(point) + self.constant

    def violation(self, point: Array) -> float:
        """How far a point leaves rows, box or cones; absolute, and 0 if it does not."""
        values = self.cones @ point + self.offsets
        starts = np.cumsum((0, *self.sizes))[:-1]
        ends = np.cumsum(self.sizes)
        excess = [
            float(np.linalg.norm(values[start + 1 : end]) - values[start])
            for start, end in zip(starts, ends, strict=True)
        ]
        return max(self.quadratic.violation(Claim(Status.OPTIMAL, point=point)), 0.0, *excess)

    def flaw(self) -> str:
        """Why no solver may be given this model, or an empty string."""
        base = self.quadratic
        finite = (base.cost, base.curvature, base.matrix.data, self.cones.data, self.offsets)
        if not all(np.isfinite(numbers).all() for numbers in (*finite, np.array(self.constant))):
            return "the model has a NaN or an infinite cost or coefficient"
        sides = (base.lower, base.upper, base.row_lower, base.row_upper)
        if any(np.isnan(side).any() for side in sides):
            return "the model has a NaN in a side of a row or column"
        return "the model is not convex" if (base.curvature < 0).any() else ""
