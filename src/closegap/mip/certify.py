"""Bounds of a linear program that hold whatever the solver did.

Any row multipliers `y` give a lower bound of `min cost . v` over rows and box: with the reduced
costs `r = cost - matrix.T y`,

    cost . v  =  y . (matrix v) + r . v
              >= sum_i min of y_i s over row i's sides  +  sum_j min of r_j v over column j's box

Every rounding on the way is bounded and taken off, so the bound holds in exact arithmetic. It is a
bound of the mixed-integer program too. Source: Neumaier and Shcherbina, Safe bounds in linear and
mixed-integer linear programming, Math. Programming 99 (2004); rounding by `core.numerics.gamma`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from closegap.core.numerics import FLOAT64_UNDERFLOW, gamma
from closegap.mip.model import Array, Model

__all__ = ["certified_lower_bound", "certifies_infeasibility"]


def certified_lower_bound(model: Model, row_duals: Array) -> float:
    """A lower bound of the optimum that holds in exact arithmetic, constant included.

    Args:
        model: its columns should have finite bounds. One that has not contributes -infinity unless
            its reduced cost has the right sign beyond rounding.
        row_duals: `[R]`, from a solver or from anywhere. Those that are not finite, or push
            towards a row side that does not exist, count as zero.

    Returns:
        the bound; -infinity where none can be given. Never NaN.

    Raises:
        ValueError: `row_duals` does not have one entry for each row.
    """
    if row_duals.shape != (model.rows,):
        raise ValueError(f"row_duals has shape {row_duals.shape}, the model wants ({model.rows},)")
    if model.flaw():
        return -math.inf
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        duals = _projected(model, row_duals)
        sides = np.where(duals > 0.0, model.row_lower, model.row_upper)
        rows = _product(duals, sides)
        terms = np.concatenate([rows, _column_minima(model, duals), [model.constant]])
        # Each term is one rounded product (minimum, exact, of such), then they are summed.
        steps = 2 * (len(terms) + 2)
        error = gamma(steps) * float(np.abs(terms).sum()) + steps * FLOAT64_UNDERFLOW
        bound = float(np.nextafter(float(terms.sum()) - error, -math.inf))
    return bound if math.isfinite(bound) else -math.inf


def certifies_infeasibility(model: Model, ray: Array) -> bool:
    """True iff `ray` proves, in exact arithmetic, that no point satisfies all rows and the box.

    A Farkas ray: with cost zero its bound is positive, though every feasible point costs zero.

    Args:
        model: what is claimed to be infeasible; costs and integrality play no part.
        ray: `[R]`, at any scale, as in `Claim.row_duals` of an infeasible linear program.

    Raises:
        ValueError: `ray` does not have one entry for each row.
    """
    costless = replace(model, cost=np.zeros(model.columns), constant=0.0)
    return certified_lower_bound(costless, ray) > 0.0


def _projected(model: Model, duals: Array) -> Array:
    """The duals, zero where they are not finite or have no row side to lean on."""
    nothing = ~np.isfinite(duals)
    nothing |= (duals > 0.0) & np.isinf(model.row_lower)
    nothing |= (duals < 0.0) & np.isinf(model.row_upper)
    return np.where(nothing, 0.0, duals)


def _column_minima(model: Model, duals: Array) -> Array:
    """For each column, a lower bound of `r v` over its box and over every `r` rounding allows."""
    matrix = model.matrix
    reduced = model.cost - matrix.T @ duals
    magnitude = np.abs(model.cost) + csr_array(abs(matrix)).T @ np.abs(duals)
    used = (matrix.data != 0.0) & (np.repeat(duals, np.diff(matrix.indptr)) != 0.0)
    entries = np.bincount(matrix.indices[used], minlength=model.columns)
    longest = int(entries.max(initial=0))
    # Twice the length covers the rounding of `magnitude` itself and of the next two lines.
    steps = 2 * (longest + 4)
    error = gamma(steps) * magnitude + steps * FLOAT64_UNDERFLOW
    error[entries == 0] = 0.0  # nothing was added to the cost: exact, so the column may be free
    low = np.nextafter(reduced - error, np.where(error > 0.0, -math.inf, reduced))
    high = np.nextafter(reduced + error, np.where(error > 0.0, math.inf, reduced))
    corners = [_product(r, v) for r in (low, high) for v in (model.lower, model.upper)]
    return np.asarray(np.minimum.reduce(corners))


def _product(left: Array, right: Array) -> Array:
    """The product, where zero times infinity is zero."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(left == 0.0, 0.0, left * right))
