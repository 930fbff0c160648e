"""The least distance of a tiny network to a lost label, by enumerating its linear regions.

An oracle for tests. On each region the nearest point is a linear program of scipy's, a quadratic
one (l2), linear programs with tangents until they are tight (isotropic variation), or a search
through sets of pixels (l0). It shares nothing with the encoder or with the bounds of
`specs/objectives`; edges and pixels are counted anew from the picture's size.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from scipy.optimize import linprog
from scipy.sparse import csr_array

from closegap.core.numerics import CELL_TOLERANCE, MIP_FEASIBILITY
from closegap.mip.model import Status
from closegap.mip.piqp import solve_quadratic
from closegap.mip.quadratic import QuadraticModel
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import (
    Grid,
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.specs.region import Box
from closegap.testing.enumeration import Piece, Region, linear_pieces

__all__ = ["least_distance", "nearest_in", "pieces_of"]

#: Rounds of tangents on one region.
_ROUNDS = 60


def pieces_of(query: DistanceQuery) -> list[tuple[Region, Piece]]:
    """Every linear region of the network in [0, 1]^D, for `least_distance` of many distances."""
    decision = query.within(0.0)
    whole = np.zeros(query.network.input_shape)
    return list(linear_pieces(replace(decision, region=Box(whole, whole + 1))))


def least_distance(
    query: DistanceQuery, pieces: Sequence[tuple[Region, Piece]] | None = None
) -> float:
    """The least distance of the image to an input of margin at most 0; infinity if there is none.

    Right to about 1e-8; a Euclidean one's square is.

    Args:
        query: of a network with a few inputs and units.
        pieces: of its network, where they are known.
    """
    prop = query.within(0.0).prop
    best = math.inf
    for region, outputs in pieces_of(query) if pieces is None else pieces:
        for clause in range(prop.clauses):
            met = region
            for row in np.flatnonzero(prop.clause == clause):
                gain = prop.rows[row] @ outputs.matrix
                constant = prop.rows[row] @ outputs.constant + prop.offsets[row]
                met = met.cut(gain, -float(constant))
            best = min(best, nearest_in(query.objective, query.center, met, below=best))
    return best


def nearest_in(
    objective: Objective, image: Float[np.ndarray, "D"], region: Region, *, below: float = math.inf
) -> float:
    """The least distance of the image to a polyhedron; infinity where it is empty.

    Args:
        objective: the distance.
        image: from where.
        region: where to.
        below: distances that are not less need not be found.
    """
    if isinstance(objective, L0Distance):
        return _fewest(objective.grid, image, region, below)
    if isinstance(objective, L2Distance):
        return _shortest(image, region)
    if isinstance(objective, LinfDistance):
        return _Linear(image, region).greatest()
    if isinstance(objective, L1Distance):
        return _Linear(image, region).weighted(objective.weights_of(image.size))
    if isinstance(objective, L1TvDistance):
        return _varied(objective, image, region)
    raise TypeError(f"no oracle for {objective.name}")


class _Linear:
    """`min cost . (x, t, more)` over the region, `t >= |x - image|`, and rows on all columns."""

    def __init__(self, image: Float[np.ndarray, "D"], region: Region) -> None:
        self.size = image.size
        eye = np.eye(self.size)
        self.rows = [np.hstack([region.rows, np.zeros_like(region.rows)])]
        self.rows += [np.hstack([sign * eye, -eye]) for sign in (1, -1)]
        self.limits = [region.limits, image, -image]
        self.lower = np.append(region.lower, np.zeros(self.size))
        self.upper = np.append(region.upper, np.full(self.size, np.inf))

    def widen(self, count: int) -> None:
        """Append columns, not negative."""
        self.rows = [np.hstack([row, np.zeros((len(row), count))]) for row in self.rows]
        self.lower = np.append(self.lower, np.zeros(count))
        self.upper = np.append(self.upper, np.full(count, np.inf))

    def add(self, rows: Float[np.ndarray, "R V"], limits: Float[np.ndarray, "R"]) -> None:
        """Append `rows . columns <= limits`."""
        self.rows.append(rows)
        self.limits.append(limits)

    def solve(self, cost: Float[np.ndarray, "V"]) -> tuple[float, Float[np.ndarray, "V"]]:
        """The optimum and where it is."""
        found = linprog(
            cost,
            np.vstack(self.rows),
            np.concatenate(self.limits),
            bounds=list(zip(self.lower, self.upper, strict=True)),
            method="highs",
            options={
                "primal_feasibility_tolerance": MIP_FEASIBILITY,
                "dual_feasibility_tolerance": MIP_FEASIBILITY,
            },
        )
        if found.status or found.fun is None or found.x is None:
            return math.inf, self.lower
        return float(found.fun), found.x

    def weighted(self, weights: Float[np.ndarray, "D"]) -> float:
        """Least `weights . |x - image|`."""
        return self.solve(np.append(np.zeros(self.size), weights))[0]

    def greatest(self) -> float:
        """Least `max |x - image|`."""
        self.widen(1)
        eye = np.eye(self.size)
        self.add(np.hstack([0 * eye, eye, -np.ones((self.size, 1))]), np.zeros(self.size))
        return self.solve(np.append(np.zeros(2 * self.size), 1.0))[0]


def _shortest(image: Float[np.ndarray, "D"], region: Region) -> float:
    """A quadratic program over the difference."""
    rows, size = region.rows, image.size
    if math.isinf(region.least(np.zeros(size))):
        return math.inf
    claim = solve_quadratic(
        QuadraticModel(
            np.ones(size),
            np.zeros(size),
            csr_array(rows),
            np.full(len(rows), -np.inf),
            region.limits - rows @ image,
            region.lower - image,
            region.upper - image,
        )
    )
    if claim.status is not Status.OPTIMAL:
        raise ArithmeticError(f"the oracle's quadratic program failed: {claim.detail}")
    return math.sqrt(max(2 * claim.objective, 0.0))


def _fewest(grid: Grid, image: Float[np.ndarray, "D"], region: Region, below: float) -> float:
    """Subsets of pixels in the order of their size, a linear program each."""
    for count in range(grid.pixels + 1):
        if count >= below:
            return math.inf
        for chosen in itertools.combinations(range(grid.pixels), count):
            free = np.isin(grid.pixel_of, chosen)
            fixed = (image < region.lower) | (image > region.upper)
            if (fixed & ~free).any():
                continue
            part = replace(
                region,
                lower=np.where(free, region.lower, image),
                upper=np.where(free, region.upper, image),
            )
            if math.isfinite(part.least(np.zeros(image.size))):
                return float(count)
    return math.inf


def _varied(objective: L1TvDistance, image: Float[np.ndarray, "D"], region: Region) -> float:
    """A column for each edge, or each pixel's gradient under tangents."""
    steps = _steps(objective.grid)
    base = steps @ image
    offset = base if objective.of == "difference" else 0 * base
    program = _Linear(image, region)
    count, sites = len(base), len(base) // 2
    program.widen(sites if objective.isotropic else count)
    cost = np.concatenate([np.zeros(image.size), np.ones(image.size)])
    if not objective.isotropic:
        for sign in (1, -1):
            program.add(np.hstack([sign * steps, 0 * steps, -np.eye(count)]), sign * offset)
        before = float(np.abs(base).sum()) if objective.of == "image" else 0.0
        total = program.solve(np.append(cost, np.full(count, objective.kappa)))[0]
        return total - objective.kappa * before
    before = float(np.hypot(base[:sites], base[sites:]).sum()) if objective.of == "image" else 0.0
    cost = np.append(cost, np.full(sites, objective.kappa))
    found, point = program.solve(cost)
    for _ in range(_ROUNDS if math.isfinite(found) else 0):
        across, down = (part @ point[: image.size] for part in (steps[:sites], steps[sites:]))
        across, down = across - offset[:sites], down - offset[sites:]
        lengths = np.hypot(across, down)
        if (lengths - point[2 * image.size :]).sum() <= CELL_TOLERANCE:
            break
        safe = np.where(lengths > 0, lengths, 1.0)
        a, b = (across / safe)[:, None], (down / safe)[:, None]
        tangent = a * steps[:sites] + b * steps[sites:]
        limit = a[:, 0] * offset[:sites] + b[:, 0] * offset[sites:]
        program.add(np.hstack([tangent, 0 * tangent, -np.eye(sites)]), limit)
        found, point = program.solve(cost)
    return found - objective.kappa * before


def _steps(grid: Grid) -> Float[np.ndarray, "S D"]:
    """To the right of every entry, then below every entry; zero rows beyond the border."""
    right, below = np.zeros((2, grid.size, grid.size))
    for c, i, j in itertools.product(range(grid.channels), range(grid.height), range(grid.width)):
        here = grid.entries[c, i, j]
        for rows, other in ((right, (c, i, j + 1)), (below, (c, i + 1, j))):
            if other[1] < grid.height and other[2] < grid.width:
                rows[here, here], rows[here, grid.entries[other]] = -1.0, 1.0
    return np.vstack([right, below])
