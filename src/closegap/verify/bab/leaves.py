"""Leaves: subdomains with no unstable unit left, decided by linear programs.

On a leaf every activation is one line, so a backward pass gives the margins and every split unit
as affine functions of the input, up to rounding. Two programs over the region:

    deciding:  min over x of max(margin rows, -sign_j (z_j(x) - p_j))   positive iff proved
    bounding:  min over x of max(margin rows)   where sign_j (z_j(x) - p_j) >= 0

The first one always has a solution, so an empty leaf needs no certificate of its own. Where it is
negative, its point lies strictly inside the leaf and breaks the property: the candidate that
rounding disturbs least. Bounds are computed from row duals (`mip.certify`), never taken from the
solver, and what float arithmetic may have lost in the affine functions is taken off first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.records import LinearBound
from closegap.core.budget import Budget
from closegap.core.numerics import gamma
from closegap.core.worker import Ended
from closegap.mip.certify import certified_lower_bound
from closegap.mip.model import Model, SolveOptions
from closegap.mip.registry import choose
from closegap.verify.bab.planes import planes_below
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.walls import Walls

__all__ = ["LeafPrograms", "LeafResult"]

#: An l2 ball is cut from its box by so many planes at most; each costs one small program.
_BALL_CUTS = 40
#: Bytes of coefficients that the backward passes of one group of leaves may hold.
_GROUP_BYTES = 64 * 1024**2


@dataclass(frozen=True, eq=False)
class LeafResult:
    """What the programs showed of B leaves.

    Attributes:
        lower: proved lower bound of the clause's margin on each leaf, `[B]`; of a proved leaf some
            positive number.
        points: candidates from the leaves that are not proved, `[M, *input shape]`.
        tried: False where the budget, or the wish for it, ended first, `[B]`.
    """

    lower: Float[np.ndarray, "B"]
    points: NDArray[np.float64]
    tried: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Planes:
    """`value >= matrix . x + constant` in exact arithmetic, for every x of the leaf."""

    matrix: Float[np.ndarray, "R D"]
    constant: Float[np.ndarray, "R"]


class LeafPrograms:
    """Decides leaves of one problem.

    Args:
        problem: roots, units, bounds.
    """

    def __init__(self, problem: SplitProblem) -> None:
        self._problem = problem
        region = problem.exact_region
        self._lower = _numpy(region.lower.flatten())
        self._upper = _numpy(region.upper.flatten())
        self._reach = np.maximum(np.abs(self._lower), np.abs(self._upper))
        self._center = None if region.center is None else _numpy(region.center.flatten())

    def solve(
        self,
        root: Int[np.ndarray, "B"],
        walls: Walls,
        budget: Budget,
        ended: Ended = lambda: False,
    ) -> LeafResult:
        """Decide leaves, one after the other.

        Any set of splits gives sound bounds; only where every unit is split are they exact.

        Args:
            root: number of the root each leaf belongs to.
            walls: the splits of every leaf.
            budget: leaves that do not fit are left alone.
            ended: asked before each leaf; those after it says so are left alone too.
        """
        lower, tried = np.full(len(root), -np.inf), np.zeros(len(root), bool)
        points: list[NDArray[np.float64]] = []
        group = self._group()
        for first in range(0, len(root), group):
            part = slice(first, first + group)
            if budget.expired or ended():
                break
            margins, cuts = self._planes(root[part], walls.select(part))
            for leaf, (rows, cut) in enumerate(zip(margins, cuts, strict=True), start=first):
                if budget.expired or ended():
                    break
                lower[leaf], found = self._leaf(rows, cut, budget)
                tried[leaf] = lower[leaf] > 0 or not budget.expired
                points.extend(found)
        shape = self._problem.input_shape
        stacked = np.stack(points) if points else np.zeros((0, len(self._lower)))
        return LeafResult(lower, stacked.reshape(-1, *shape), tried)

    def _group(self) -> int:
        nodes = self._problem.exact.network.nodes
        largest = max(node.size for node in nodes)
        rows = max((len(layer.indices) for layer in self._problem.layers), default=1)
        return max(1, _GROUP_BYTES // (8 * largest * rows))

    def _planes(
        self, root: Int[np.ndarray, "B"], walls: Walls
    ) -> tuple[list[_Planes], list[_Planes]]:
        """Of each leaf: planes below the margin rows, and below `-sign_j (z_j - p_j)`."""
        problem = self._problem
        bounds = dict(problem.bounds)
        for layer in problem.layers:
            bounds[layer.feed] = layer.constrained(bounds[layer.feed], walls.of_units(layer.units))
        exact = BackwardPass(problem.exact, bounds, problem.values, problem.slack)
        which = torch.as_tensor(root)
        with torch.no_grad():
            start = problem.exact.network.output
            found = exact.run(start, problem.rows[which])
            margins = self._below(found, problem.offsets[which])
            sides = [
                self._side(exact, layer, sign, part)
                for layer in problem.layers
                for sign, part in _sides(walls.of_units(layer.units))
            ]
        cuts = []
        for leaf in range(len(root)):
            used = [(m[leaf][ok[leaf]], c[leaf][ok[leaf]]) for m, c, ok in sides]
            matrix = np.concatenate([np.zeros((0, len(self._lower))), *(m for m, _ in used)])
            cuts.append(_Planes(matrix, np.concatenate([np.zeros(0), *(c for _, c in used)])))
        return [_Planes(*both) for both in zip(*margins, strict=True)], cuts

    def _side(
        self, exact: BackwardPass, layer: Layer, sign: Tensor, level: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Planes below `sign (z - level)` of a layer's units, and where there is such a wall."""
        shape = self._problem.exact.network.nodes[layer.feed].shape
        size, units = int(np.prod(shape)), len(layer.indices)
        rows = torch.zeros(len(level), units, size, dtype=torch.float64)
        rows[:, torch.arange(units), layer.indices] = sign
        found = exact.run(layer.feed, rows.reshape(len(level), units, *shape))
        matrix, constant = self._below(found, -sign * level)
        return matrix, constant, np.asarray((sign != 0).numpy())

    def _below(
        self, found: LinearBound, offsets: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Coefficients `[B, R, D]`, and constants `[B, R]` with all rounding taken off."""
        nodes, reach = len(self._problem.exact.network.nodes), torch.as_tensor(self._reach)
        matrix, constant = planes_below(found, offsets, reach, nodes)
        return _numpy(matrix), _numpy(constant)

    def _leaf(
        self, margins: _Planes, walls: _Planes, budget: Budget
    ) -> tuple[float, list[NDArray[np.float64]]]:
        lower, inside = self._least(self._model(margins, walls, deciding=True), budget)
        if lower > 0:
            return lower, []
        lower, least = self._least(self._model(margins, walls, deciding=False), budget)
        return lower, [point for point in (inside, least) if point is not None]

    def _model(self, margins: _Planes, walls: _Planes, *, deciding: bool) -> Model:
        """Columns: the input, with an l1 ball the distances, last the greatest row."""
        planes = np.vstack([margins.matrix, walls.matrix])
        constant = np.concatenate([margins.constant, walls.constant])
        follows = np.ones(len(constant))
        if not deciding:
            follows[len(margins.constant) :] = 0.0
        size = len(self._lower)
        ball, ball_lower, ball_upper = self._ball()
        extra = ball.shape[1] - size
        matrix = np.vstack(
            [
                np.hstack([planes, np.zeros((len(planes), extra)), -follows[:, None]]),
                np.hstack([ball, np.zeros((len(ball), 1))]),
            ]
        )
        top = 2 * float((np.abs(planes) @ self._reach + np.abs(constant)).max(initial=1.0))
        far = np.full(extra, self._problem.exact_region.radius)
        columns = size + extra + 1
        return Model(
            cost=np.append(np.zeros(columns - 1), 1.0),
            matrix=csr_array(matrix),
            row_lower=np.concatenate([np.full(len(constant), -np.inf), ball_lower]),
            row_upper=np.concatenate([-constant, ball_upper]),
            lower=np.concatenate([self._lower, 0 * far, [-top]]),
            upper=np.concatenate([self._upper, far, [top]]),
            integer=np.zeros(columns, dtype=bool),
        )

    def _ball(
        self,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Rows of an l1 ball, `|x - center| <= distances`, and their sides; none otherwise."""
        size, region = len(self._lower), self._problem.exact_region
        if self._center is None or region.norm != 1:
            return np.zeros((0, size)), np.zeros(0), np.zeros(0)
        identity, free = np.eye(size), np.full(size, np.inf)
        rows = np.vstack(
            [
                np.hstack([identity, -identity]),
                np.hstack([identity, identity]),
                np.append(np.zeros(size), np.ones(size))[None],
            ]
        )
        lower = np.concatenate([-free, self._center, [-np.inf]])
        upper = np.concatenate([self._center, free, [region.radius]])
        return rows, lower, upper

    def _least(self, model: Model, budget: Budget) -> tuple[float, NDArray[np.float64] | None]:
        """A certified bound of the program, and the input of its solution."""
        solver, _ = choose("lp")
        bound, point = -np.inf, None
        for _ in range(_BALL_CUTS):
            claim = solver.solve(
                model, SolveOptions(time_limit=budget.remaining, threads=budget.threads)
            )
            if claim.row_duals is not None:
                bound = max(bound, certified_lower_bound(model, claim.row_duals))
            point = None if claim.point is None else claim.point[: len(self._lower)]
            if bound > 0 or point is None or budget.expired:
                break
            cut = self._ball_cut(point)
            if cut is None:
                break
            model = _with_row(model, *cut)
        return float(bound), point

    def _ball_cut(self, point: NDArray[np.float64]) -> tuple[NDArray[np.float64], float] | None:
        """A plane that holds on the l2 ball and cuts off a point outside it.

        `step . (x - center) <= |step| radius` for every step; the right side is rounded up.
        """
        region = self._problem.exact_region
        if self._center is None or region.norm != 2:
            return None
        step = point - self._center
        length = float(np.linalg.norm(step))
        if length <= region.radius:
            return None
        size = float(np.abs(step) @ np.abs(self._center)) + length * region.radius
        side = float(step @ self._center) + length * region.radius
        return step, side + 4 * gamma(len(step) + 8) * size


def _sides(walls: Walls) -> list[tuple[Tensor, Tensor]]:
    """Sign and level of every unit's wall; another pair where some units have two."""
    low, high = walls.low.isfinite(), walls.high.isfinite()
    first = torch.where(low, -1.0, torch.where(high, 1.0, 0.0)).double()
    level = torch.where(low, walls.low, torch.where(high, walls.high, 0.0))
    both = low & high
    if not bool(both.any()):
        return [(first, level)]
    return [(first, level), (both.double(), torch.where(both, walls.high, 0.0))]


def _with_row(model: Model, row: NDArray[np.float64], side: float) -> Model:
    wide = np.append(row, np.zeros(model.columns - len(row)))
    return replace(
        model,
        matrix=csr_array(np.vstack([model.matrix.toarray(), wide])),
        row_lower=np.append(model.row_lower, -np.inf),
        row_upper=np.append(model.row_upper, side),
    )


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().numpy(), dtype=np.float64)
