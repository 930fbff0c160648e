"""A distance as columns of a program: `difference = matrix @ columns`, at this cost.

What the columns cost never exceeds the distance of their difference. Convex terms that are no sum
over inputs (total variation) start as their tangents at the image and get further tangents where a
solution lies above them: few do, for few pixels change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, eye_array, hstack, vstack

from closegap.attacks.sparse.ground import Ground
from closegap.core.numerics import FLOAT64_UNIT, gamma
from closegap.specs.objectives import (
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.specs.objectives.variation import gradients

__all__ = ["DistanceColumns", "Tangents", "distance_columns"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Tangents:
    """Convex terms `||gradients_k (image + difference)||`, one excess column each.

    `terms_k - terms_k(image) >= first_k . difference + excess_k` with equality at the image, where
    `excess_k >= 0` is worth `rate`. A tangent at another point is a row for its excess.

    Attributes:
        across, down: csr `[K, D]`, the two parts of each gradient.
        clean: gradients at the image `[2, K]`.
        first: unit vectors of the tangent at the image `[2, K]`, zero where the gradient is.
        start: the excess columns begin here.
        rate: cost of an excess.
    """

    across: csr_array
    down: csr_array
    clean: Float[np.ndarray, "2 K"]
    first: Float[np.ndarray, "2 K"]
    start: int
    rate: float

    @property
    def isotropic(self) -> bool:
        """Whether terms that cost something are lengths of pairs."""
        return bool(self.down.nnz) and self.rate > 0

    def rows(
        self, columns: DistanceColumns, values: Float[np.ndarray, "V"], tolerance: float
    ) -> tuple[csr_array, Array]:
        """Rows `matrix @ columns >= lower` that a solution violates by more than a tolerance."""
        change = columns.difference(values)
        moved = np.stack([self.across @ change, self.down @ change])
        there = self.clean + moved
        length = np.sqrt((there**2).sum(axis=0))
        unit = np.divide(there, length, out=np.zeros_like(there), where=length > 0)
        exact = (np.abs(unit) == 1.0) | (unit == 0.0)
        unit = np.where(exact.all(axis=0), unit, unit * (1 - 8 * FLOAT64_UNIT))
        least = (unit * self.clean).sum(axis=0) - np.sqrt((self.clean**2).sum(axis=0))
        excess = values[self.start : self.start + len(length)]
        missing = least + ((unit - self.first) * moved).sum(axis=0) - excess
        chosen = np.flatnonzero(missing > tolerance)
        turn = (unit - self.first)[:, chosen]
        slopes = _scaled(self.across, chosen, turn[0]) + _scaled(self.down, chosen, turn[1])
        count = len(chosen)
        excesses = csr_array(
            (np.ones(count), (np.arange(count), self.start + chosen)),
            shape=(count, len(columns.cost)),
        )
        matrix = csr_array(excesses - slopes @ columns.matrix)
        size = 4 + np.abs(least[chosen])
        return matrix, least[chosen] - 64 * FLOAT64_UNIT * size

    def cones(self, columns: DistanceColumns) -> tuple[csr_array, Array]:
        """The terms themselves: `matrix @ columns + offsets`, in cones of three rows a term.

        A term's rows are its value in terms of the excess, and the two parts of its gradient.
        """
        count = len(self.first[0])
        turned = _scaled(self.across, np.arange(count), self.first[0])
        turned = turned + _scaled(self.down, np.arange(count), self.first[1])
        place = np.arange(count)
        excesses = csr_array(
            (np.ones(count), (place, self.start + place)), shape=(count, len(columns.cost))
        )
        parts = [turned @ columns.matrix + excesses, self.across @ columns.matrix]
        stacked = csr_array(vstack([*parts, self.down @ columns.matrix], format="csr"))
        length = np.sqrt((self.clean**2).sum(axis=0))
        by_term = np.arange(3 * count).reshape(3, count).T.reshape(-1)
        return stacked[by_term], np.stack([length, *self.clean]).T.reshape(-1)

    def flows(self, duals: Float[np.ndarray, "M"]) -> Float[np.ndarray, "E"]:
        """What multipliers of these cones say of the terms, as in `Variation`."""
        return np.asarray(-duals.reshape(-1, 3)[:, 1:].T.reshape(-1) / self.rate)


@dataclass(frozen=True, eq=False)
class DistanceColumns:
    """Columns, and what they mean.

    Attributes:
        cost: `[V]`.
        curvature: `[V]`, the diagonal of a quadratic cost; zeros for a linear one.
        lower, upper: `[V]`.
        matrix: csr `[D, V]`.
        constant: of the cost; an allowance for the rounding of the others.
        tangents: of terms that are written out as they are needed, or `None`.
        priced: False where the columns cost nothing and the margin is minimised instead.
    """

    cost: Float[np.ndarray, "V"]
    curvature: Float[np.ndarray, "V"]
    lower: Float[np.ndarray, "V"]
    upper: Float[np.ndarray, "V"]
    matrix: csr_array
    constant: float = 0.0
    tangents: Tangents | None = None
    priced: bool = True

    def difference(self, values: Float[np.ndarray, "V"]) -> Float[np.ndarray, "D"]:
        """What is added to the image."""
        return np.asarray(self.matrix @ values[: len(self.cost)])


def distance_columns(objective: Objective, ground: Ground) -> DistanceColumns:
    """The columns of an objective within a ground's box."""
    return _WRITERS[type(objective)](objective, ground)


def _room(ground: Ground) -> tuple[Array, Array]:
    """How far each input may fall and rise."""
    low, high = ground.lower - ground.image, ground.upper - ground.image
    low = np.where(low < 0, np.nextafter(low, -np.inf), 0.0)
    return low, np.where(high > 0, np.nextafter(high, np.inf), 0.0)


def _halves(ground: Ground, up: Array, down: Array) -> DistanceColumns:
    """What is added and what is taken away, at these costs."""
    low, high = _room(ground)
    one = eye_array(ground.inputs, format="csr")
    return DistanceColumns(
        cost=np.concatenate([up, down]),
        curvature=np.zeros(2 * ground.inputs),
        lower=np.zeros(2 * ground.inputs),
        upper=np.concatenate([high, -low]),
        matrix=csr_array(hstack([one, -one], format="csr")),
    )


def _l1(objective: L1Distance, ground: Ground) -> DistanceColumns:
    weights = objective.weights_of(ground.inputs)
    return _halves(ground, weights, weights)


def _l0(objective: L0Distance, ground: Ground) -> DistanceColumns:
    """The envelope over the box: every input pays its share of its pixel."""
    low, high = _room(ground)
    share = 1.0 / objective.grid.channels
    rates = [
        np.divide(share, side, out=np.zeros_like(side), where=side > 0) for side in (high, -low)
    ]
    return _halves(ground, rates[0], rates[1])


def _l2(objective: L2Distance, ground: Ground) -> DistanceColumns:
    return _differences(ground, 1.0, priced=True)


def _linf(objective: LinfDistance, ground: Ground) -> DistanceColumns:
    return _differences(ground, 0.0, priced=False)


def _differences(ground: Ground, curvature: float, *, priced: bool) -> DistanceColumns:
    low, high = _room(ground)
    zeros = np.zeros(ground.inputs)
    one = csr_array(eye_array(ground.inputs, format="csr"))
    return DistanceColumns(zeros, zeros + curvature, low, high, one, priced=priced)


def _l1_tv(objective: L1TvDistance, ground: Ground) -> DistanceColumns:
    count = ground.inputs
    across, down = gradients(objective.grid, isotropic=objective.isotropic)
    origin = ground.image if objective.of == "image" else np.zeros(count)
    clean = np.stack([across @ origin, down @ origin])
    length = np.sqrt((clean**2).sum(axis=0))
    first = np.divide(clean, length, out=np.zeros_like(clean), where=length > 0)
    exact = ((np.abs(first) == 1.0) | (first == 0.0)).all(axis=0)
    first = np.where(exact, first, first * (1 - 8 * FLOAT64_UNIT))
    slope = objective.kappa * (across.T @ first[0] + down.T @ first[1])
    halves, terms = _halves(ground, 1.0 + slope, 1.0 - slope), across.shape[0]
    # A unit vector is shortened by its rounding: the tangent may lie below its term at the image.
    size = (1.0 + 4.0 * objective.kappa) * (ground.reach[:count].sum() + terms)
    return DistanceColumns(
        cost=np.concatenate([halves.cost, np.full(terms, objective.kappa)]),
        curvature=np.zeros(2 * count + terms),
        lower=np.concatenate([halves.lower, np.zeros(terms)]),
        upper=np.concatenate([halves.upper, np.full(terms, 4.0)]),
        matrix=csr_array(hstack([halves.matrix, csr_array((count, terms))], format="csr")),
        constant=-gamma(64) * size,
        tangents=Tangents(across, down, clean, first, 2 * count, objective.kappa),
    )


def _scaled(matrix: csr_array, rows: NDArray[np.int64], factor: Array) -> csr_array:
    return csr_array(diags_array(factor, shape=(len(rows), len(rows))) @ matrix[rows])


_WRITERS: dict[type, Callable[..., DistanceColumns]] = {
    L0Distance: _l0,
    L1Distance: _l1,
    L1TvDistance: _l1_tv,
    L2Distance: _l2,
    LinfDistance: _linf,
}
