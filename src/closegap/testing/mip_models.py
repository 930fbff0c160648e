"""Programs whose answers are known by other means: for conformance suites and benchmarks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import csr_array

from closegap.mip.model import Array, Model

__all__ = [
    "enumerated_optimum",
    "hard_integer",
    "infeasible",
    "knapsack",
    "linprog_optimum",
    "random_binary",
    "random_linear",
    "relaxed",
    "relu_chain",
    "small_model",
]


def random_linear(rng: np.random.Generator, *, rows: int, columns: int) -> Model:
    """A dense feasible linear program in a finite box: two-sided, one-sided and equality rows."""
    matrix = rng.normal(size=(rows, columns))
    lower = -rng.random(columns)
    upper = rng.random(columns)
    inside = matrix @ (lower + (upper - lower) * rng.random(columns))
    kind = np.arange(rows) % 4
    row_lower = np.where(kind == 1, -math.inf, inside - np.where(kind == 3, 0.0, 0.1))
    row_upper = np.where(kind == 2, math.inf, inside + np.where(kind == 3, 0.0, 0.1))
    return Model(
        cost=rng.normal(size=columns),
        matrix=csr_array(matrix),
        row_lower=row_lower,
        row_upper=row_upper,
        lower=lower,
        upper=upper,
        integer=np.zeros(columns, dtype=np.bool_),
        constant=float(rng.normal()),
    )


def random_binary(rng: np.random.Generator, *, rows: int, binaries: int, reals: int) -> Model:
    """A feasible mixed program; the first `binaries` columns are 0 or 1, the rest lie in [0, 1]."""
    columns = binaries + reals
    matrix = rng.normal(size=(rows, columns))
    inside = rng.random(columns)
    inside[:binaries] = np.rint(inside[:binaries])
    activity = matrix @ inside
    return Model(
        cost=rng.normal(size=columns),
        matrix=csr_array(matrix),
        row_lower=activity - 0.5,
        row_upper=activity + 0.5,
        lower=np.zeros(columns),
        upper=np.ones(columns),
        integer=np.arange(columns) < binaries,
        constant=float(rng.normal()),
    )


def small_model(
    matrix: Sequence[Sequence[float]] | Array,
    cost: Sequence[float],
    *,
    rows: tuple[float, float],
    integer: bool = False,
) -> Model:
    """A model with all columns in [0, 1] and all rows between the same two sides."""
    dense = np.asarray(matrix, dtype=np.float64)
    height, width = dense.shape
    return Model(
        cost=np.asarray(cost, dtype=np.float64),
        matrix=csr_array(dense),
        row_lower=np.full(height, rows[0]),
        row_upper=np.full(height, rows[1]),
        lower=np.zeros(width),
        upper=np.ones(width),
        integer=np.full(width, integer),
    )


def infeasible(rng: np.random.Generator, *, integer: bool) -> Model:
    """A program whose first row asks for a little more than its box can give."""
    model = random_linear(rng, rows=6, columns=8)
    row = model.matrix.toarray()[0]
    most = float(np.maximum(row * model.lower, row * model.upper).sum())
    lower, upper = model.row_lower.copy(), model.row_upper.copy()
    lower[0], upper[0] = most + 0.01, math.inf
    whole = np.full(8, integer)
    return replace(model, row_lower=lower, row_upper=upper, integer=whole)


def relaxed(model: Model) -> Model:
    """The linear relaxation."""
    return replace(model, integer=np.zeros_like(model.integer))


def knapsack(rng: np.random.Generator, *, items: int, rows: int) -> Model:
    """A multi-dimensional knapsack, values and weights correlated (Chu and Beasley's recipe)."""
    weights = rng.integers(1, 1000, size=(rows, items)).astype(np.float64)
    values = weights.mean(axis=0) + 500.0 * rng.random(items)
    return Model(
        cost=-values,
        matrix=csr_array(weights),
        row_lower=np.full(rows, -math.inf),
        row_upper=np.floor(weights.sum(axis=1) / 2),
        lower=np.zeros(items),
        upper=np.ones(items),
        integer=np.ones(items, dtype=np.bool_),
    )


def hard_integer(rng: np.random.Generator, *, items: int = 40, rows: int = 5) -> Model:
    """A market-split program: no solver closes it in minutes, all find points at once.

    Source: Cornuejols and Dawande, A class of hard small 0-1 programs (1998). The slacks keep
    every binary choice feasible; the linear relaxation's value is zero.
    """
    weights = rng.integers(1, 100, size=(rows, items)).astype(np.float64)
    middle = np.floor(weights.sum(axis=1) / 2)
    columns = items + 2 * rows
    return Model(
        cost=np.concatenate([np.zeros(items), np.ones(2 * rows)]),
        matrix=csr_array(np.hstack([weights, np.eye(rows), -np.eye(rows)])),
        row_lower=middle,
        row_upper=middle,
        lower=np.zeros(columns),
        upper=np.concatenate([np.ones(items), np.full(2 * rows, math.inf)]),
        integer=np.arange(columns) < items,
        constant=0.25,
    )


def relu_chain(rng: np.random.Generator, *, inputs: int, widths: tuple[int, ...]) -> Model:
    """Minimise a random output of a random ReLU network over the unit box, big-M with intervals.

    Columns: the inputs, then for each layer its outputs `h` and its phases `s`. Rows of a neuron
    with pre-activation `z = w . previous + b` in `[l, u]`: `h >= z`, `h <= z - l (1 - s)`,
    `h <= u s`, `h >= 0`.
    """
    low, high = np.zeros(inputs), np.ones(inputs)
    previous = np.arange(inputs)
    total = inputs + 2 * sum(widths)
    lower, upper, integer = np.zeros(total), np.ones(total), np.zeros(total, dtype=np.bool_)
    blocks: list[Array] = []
    sides: list[Array] = []
    at = inputs
    for width in widths:
        weight = rng.normal(size=(width, len(previous))) / math.sqrt(len(previous))
        bias = 0.3 * rng.normal(size=width)
        middle, radius = (low + high) / 2, (high - low) / 2
        z_low = weight @ middle + bias - np.abs(weight) @ radius
        z_high = weight @ middle + bias + np.abs(weight) @ radius
        h, s = np.arange(at, at + width), np.arange(at + width, at + 2 * width)
        above, below, gate = (np.zeros((width, total)) for _ in range(3))
        diagonal = np.arange(width)
        above[:, previous] = below[:, previous] = -weight
        above[diagonal, h] = below[diagonal, h] = gate[diagonal, h] = 1.0
        below[diagonal, s] = -np.minimum(z_low, 0.0)
        gate[diagonal, s] = -np.maximum(z_high, 0.0)
        blocks += [above, -below, -gate]
        sides += [bias, -bias + np.minimum(z_low, 0.0), np.zeros(width)]
        low, high = np.maximum(z_low, 0.0), np.maximum(z_high, 0.0)
        upper[h], integer[s] = high, True
        previous, at = h, at + 2 * width
    cost = np.zeros(total)
    cost[previous] = rng.normal(size=len(previous))
    row_lower = np.concatenate(sides)
    matrix = csr_array(np.concatenate(blocks))
    row_upper = np.full(len(row_lower), math.inf)
    return Model(cost, matrix, row_lower, row_upper, lower, upper, integer)


def linprog_optimum(model: Model) -> float:
    """The optimum of a feasible, bounded linear program by scipy's solver."""
    dense = model.matrix.toarray()
    has_upper, has_lower = np.isfinite(model.row_upper), np.isfinite(model.row_lower)
    rows = np.concatenate([dense[has_upper], -dense[has_lower]])
    sides = np.concatenate([model.row_upper[has_upper], -model.row_lower[has_lower]])
    bounds = list(zip(model.lower.tolist(), model.upper.tolist(), strict=True))
    result = linprog(model.cost, A_ub=rows, b_ub=sides, bounds=bounds, method="highs-ipm")
    if result.status != 0 or result.fun is None:
        raise ValueError(f"scipy found no optimum: {result.message}")
    return float(result.fun) + model.constant


def enumerated_optimum(model: Model) -> float:
    """The optimum of a program with few binaries: a linear program for each of their choices.

    Returns:
        infinity where no choice is feasible.
    """
    chosen = np.flatnonzero(model.integer)
    best = math.inf
    for values in itertools.product((0.0, 1.0), repeat=len(chosen)):
        lower, upper = model.lower.copy(), model.upper.copy()
        lower[chosen] = upper[chosen] = values
        fixed = relaxed(replace(model, lower=lower, upper=upper))
        try:
            best = min(best, linprog_optimum(fixed))
        except ValueError:
            continue
    return best
