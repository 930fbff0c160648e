"""The integer program of a binarized network: inputs, and a binary for every sign not fixed.

Behind the first layer sums are integers, two apart, so the rows that tie a sign to its sum have an
exact gap: on means at or above the threshold, off at least 2 below it. The first layer's real sums
keep clear of their thresholds by a small gap on both sides, so that a point survives rounding; for
a proof they may be as far on the wrong side, so that every input is a point of the program.
Signs that intervals fix are constants. Source: Khalil, Gupta, Dilkina, Combinatorial Attacks on
Binarized Neural Networks (ICLR 2019), section 3; here with sign(0) = +1 and the box of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array, hstack, vstack

from closegap.attacks.binarized.problem import BinarizedProblem
from closegap.core.budget import Budget
from closegap.core.numerics import MIP_RESOLUTION, SMALL_COEFFICIENT
from closegap.graph.binarized.intervals import interval_layer
from closegap.graph.binarized.records import Thresholds
from closegap.mip.model import Model

__all__ = ["SignProgram", "sign_program"]


@dataclass(frozen=True, eq=False)
class SignProgram:
    """The program of one clause.

    Attributes:
        model: columns are the inputs, the binaries layer by layer, and the clause's margin.
        problem: the query.
        free: units with a binary, layer by layer.
        clause: of the property.
    """

    model: Model
    problem: BinarizedProblem
    free: tuple[NDArray[np.int64], ...]
    clause: int

    def start(self, point: Float[np.ndarray, "D"]) -> NDArray[np.float64]:
        """The program's columns at an input."""
        problem = self.problem
        bits = problem.bits(problem.sums.at(point[None]))
        parts = [point, bits[0, self.free[0]].astype(np.float64)]
        for layer, free in zip(problem.forward.layers, self.free[1:], strict=True):
            bits = layer.signs(bits)
            parts.append(bits[0, free].astype(np.float64))
        outputs = problem.forward.from_last(bits)
        prop = problem.query.prop
        margin = prop.clause_values(prop.row_margins(outputs))[0, self.clause]
        return np.concatenate([*parts, [margin]])


@dataclass(eq=False)
class _Builder:
    """Rows over the columns so far; later columns are appended to all of them at the end."""

    blocks: list[csr_array] = field(default_factory=list)
    low: list[NDArray[np.float64]] = field(default_factory=list)
    high: list[NDArray[np.float64]] = field(default_factory=list)

    def add(
        self, matrix: csr_array, low: NDArray[np.float64] | float, high: NDArray[np.float64] | float
    ) -> None:
        """Rows `low <= matrix v <= high`."""
        self.blocks.append(matrix)
        self.low.append(np.broadcast_to(low, matrix.shape[0]).astype(np.float64))
        self.high.append(np.broadcast_to(high, matrix.shape[0]).astype(np.float64))

    def tie(
        self,
        slack: _Affine,
        ends: tuple[NDArray[np.float64], NDArray[np.float64]],
        gaps: tuple[NDArray[np.float64], NDArray[np.float64]],
    ) -> None:
        """One binary a row of `slack`: on means at least `gaps[0]`, off at most `-gaps[1]`."""
        (low, high), (on, off) = ends, gaps
        low, high = np.minimum(low, on), np.maximum(high, -off)
        # slack >= on + (low - on)(1 - s)  and  slack <= -off + (high + off) s
        rising, falling = (csr_array(diags_array(a)) for a in (on - low, high + off))
        self.add(csr_array(hstack([slack.matrix, -rising])), low - slack.constant, np.inf)
        self.add(csr_array(hstack([slack.matrix, -falling])), -np.inf, -off - slack.constant)

    def wide(self, columns: int) -> csr_array:
        """All rows over so many columns."""
        padded = [
            hstack([block, csr_array((block.shape[0], columns - block.shape[1]))])
            for block in self.blocks
        ]
        return csr_array(vstack(padded))


@dataclass(frozen=True, eq=False)
class _Affine:
    """`matrix v + constant`, a row each."""

    matrix: csr_array
    constant: NDArray[np.float64]

    def times(self, weights: csr_array) -> _Affine:
        """The affine functions `weights (matrix v + constant)`."""
        return _Affine(csr_array(weights @ self.matrix), np.asarray(weights @ self.constant))


def sign_program(
    problem: BinarizedProblem,
    clause: int,
    budget: Budget,
    *,
    least: float = -np.inf,
    outward: bool = False,
) -> SignProgram | None:
    """Minimise a clause's margin; with a finite `least` accept any margin at or below it.

    Args:
        problem: the query; its signs pool nothing.
        clause: of the property.
        budget: deadline, looked at before every layer.
        least: with it the program asks for feasibility only.
        outward: first sums may miss their thresholds by the gap instead of keeping clear of them.

    Returns:
        the program; `None` where the deadline came before it was built.
    """
    inputs = len(problem.lower)
    builder, network = _Builder(), problem.forward.network
    _tie_first(problem, builder, outward=outward)
    known, free = problem.known, problem.free
    chosen, columns = [free], inputs + len(free)
    signs = _signs(known, free, inputs, columns)
    for layer in network.hidden:
        if budget.expired:
            return None
        rows = interval_layer(layer)
        low, high = (
            _slack_of(layer.thresholds, s[0].astype(np.float64)) for s in rows.sums(known[None])
        )
        low, high = np.minimum(low, high), np.maximum(low, high)
        free = np.flatnonzero((low < 0) & (high >= 0))
        sums = _picked_sums(signs, rows.matrix, layer.thresholds, free)
        zero, two = np.zeros(len(free)), np.full(len(free), 2.0)
        builder.tie(sums, (low[free], high[free]), (zero, two))
        known = np.where(low >= 0, 1, -1)
        known[free] = 0
        signs = _signs(known, free, columns, columns + len(free))
        chosen.append(free)
        columns += len(free)
    if budget.expired:
        return None
    model = _model(problem, builder, signs, clause, least)
    return SignProgram(model, problem, tuple(chosen), clause)


def _tie_first(problem: BinarizedProblem, builder: _Builder, *, outward: bool) -> None:
    ends, free = _first_ends(problem), problem.free
    gap = problem.gap[problem.forward.network.first.thresholds.taken[free, 0]]
    picked = _rows(_first_slack(problem), free)
    gap = gap + _unseen(problem, picked)
    clear = -gap if outward else gap
    builder.tie(picked, (ends[0][free] - gap, ends[1][free] + gap), (clear, clear))


def _first_ends(problem: BinarizedProblem) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    middle, half = (problem.lower + problem.upper) / 2, (problem.upper - problem.lower) / 2
    center = problem.sums.at(middle[None])[0]
    reach = np.asarray(abs(problem.sums.matrix).T @ half)
    thresholds = problem.forward.network.first.thresholds
    ends = [_slack_of(thresholds, end) for end in (center - reach, center + reach)]
    return np.minimum(*ends), np.maximum(*ends)


def _unseen(problem: BinarizedProblem, sums: _Affine) -> NDArray[np.float64]:
    """How far sums move by what a solver may leave out: inputs of ranges so small that it takes
    them for constants, and coefficients that it drops."""
    width = problem.upper - problem.lower
    size = np.maximum(np.abs(problem.lower), np.abs(problem.upper))
    sizes = csr_array(abs(sums.matrix))
    constant = sizes @ np.where(width < MIP_RESOLUTION * np.maximum(1.0, size), width, 0.0)
    sizes.data = np.where(sizes.data <= SMALL_COEFFICIENT, sizes.data, 0.0)
    return np.asarray(constant + sizes @ size)


def _slack_of(thresholds: Thresholds, sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(thresholds.sense[:, 0] * sums[thresholds.taken[:, 0]] - thresholds.low[:, 0])


def _first_slack(problem: BinarizedProblem) -> _Affine:
    thresholds = problem.forward.network.first.thresholds
    taken, sense = thresholds.taken[:, 0], thresholds.sense[:, 0].astype(np.float64)
    matrix = csr_array(problem.sums.matrix.T)[taken]
    scaled = csr_array(matrix.multiply(sense[:, None]))
    return _Affine(scaled, sense * problem.sums.constant[taken] - thresholds.high[:, 0])


def _rows(values: _Affine, which: NDArray[np.int64]) -> _Affine:
    return _Affine(csr_array(values.matrix[which]), values.constant[which])


def _signs(known: NDArray[np.int64], free: NDArray[np.int64], first: int, columns: int) -> _Affine:
    """The signs `2 s - 1` of a layer whose binaries begin at column `first`."""
    places = first + np.arange(len(free))
    matrix = csr_array((np.full(len(free), 2.0), (free, places)), shape=(len(known), columns))
    return _Affine(matrix, np.where(known == 0, -1.0, known))


def _picked_sums(
    signs: _Affine, matrix: csr_array, thresholds: Thresholds, free: NDArray[np.int64]
) -> _Affine:
    taken, sense = thresholds.taken[free, 0], thresholds.sense[free, 0].astype(np.float64)
    weights = csr_array(csr_array(matrix.T)[taken].multiply(sense[:, None]))
    sums = signs.times(weights)
    return _Affine(sums.matrix, sums.constant - thresholds.low[free, 0])


def _model(
    problem: BinarizedProblem, builder: _Builder, signs: _Affine, clause: int, least: float
) -> Model:
    """The rows, the clause's margin as last column, and the objective."""
    last, prop = problem.forward.network.last, problem.query.prop
    rows = prop.rows[prop.clause == clause]
    outputs = signs.times(csr_array(last.weight))
    weights = csr_array(rows * last.factor)
    margins = outputs.times(weights)
    added = rows @ (last.factor * last.bias + last.offset) + prop.offsets[prop.clause == clause]
    columns = signs.matrix.shape[1]
    # margin >= every row's margin
    ones = csr_array(np.ones((len(rows), 1)))
    builder.add(csr_array(hstack([-margins.matrix, ones])), margins.constant + added, np.inf)
    reach = float(np.abs(rows * last.factor).sum(axis=0) @ np.abs(last.weight).sum(axis=1))
    bound = reach + float(np.abs(added).max()) + 1.0
    binaries = columns - len(problem.lower)
    only = np.isfinite(least)
    return Model(
        cost=np.append(np.zeros(columns), 0.0 if only else 1.0),
        matrix=builder.wide(columns + 1),
        row_lower=np.concatenate(builder.low),
        row_upper=np.concatenate(builder.high),
        lower=np.concatenate([problem.lower, np.zeros(binaries), [-bound]]),
        upper=np.concatenate([problem.upper, np.ones(binaries), [least if only else bound]]),
        integer=np.concatenate(
            [np.zeros(len(problem.lower), bool), np.ones(binaries, bool), [False]]
        ),
    )
