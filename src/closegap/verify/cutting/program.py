"""A clause over a reduced network as a linear program with phase columns, safe against rounding.

Columns: the inputs that matter, then `positive`, `negative` and `phase` of every unstable ReLU:
`z = positive - negative`, `positive <= u phase`, `negative <= -l (1 - phase)`. Every input of the
region, with the phases its ReLUs have, is a feasible point in exact arithmetic: what composing lost
(`ReducedNetwork.slack`), and entries that are too small to matter, widen the sides of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import block_array, csr_array, diags_array, vstack

from closegap.core.numerics import NEGLIGIBLE_SHARE, gamma
from closegap.encode.expression import place
from closegap.encode.reduced import ReducedNetwork
from closegap.graph import ops
from closegap.mip.model import Model

__all__ = ["CutProgram", "Layout", "Rows", "cut_program", "unit_rows"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Layout:
    """Where columns are: `inputs` of them, then three blocks of `units`."""

    inputs: int
    units: int

    @property
    def positive(self) -> slice:
        """The ReLUs' outputs."""
        return slice(self.inputs, self.inputs + self.units)

    @property
    def negative(self) -> slice:
        """What the ReLUs cut off."""
        return slice(self.inputs + self.units, self.inputs + 2 * self.units)

    @property
    def phase(self) -> slice:
        """1 where the ReLU is on, 0 where it is off."""
        return slice(self.inputs + 2 * self.units, self.columns)

    @property
    def columns(self) -> int:
        """How many columns there are (V)."""
        return self.inputs + 3 * self.units


@dataclass(frozen=True, eq=False)
class Rows:
    """`weight @ [inputs, positive] + bias`, off by at most `slack` in exact arithmetic.

    Attributes:
        weight: `[N, inputs + units]`.
        bias: `[N]`.
        slack: `[N]`.
    """

    weight: csr_array
    bias: Float[np.ndarray, "N"]
    slack: Float[np.ndarray, "N"]


@dataclass(frozen=True, eq=False)
class CutProgram:
    """One clause of one row, ready for cuts.

    Attributes:
        layout: where columns are.
        model: a linear program; `constant` is already lowered by what rounding may have moved.
        units: the pre-activations of all unstable ReLUs, input side first.
        used: flat indices of the inputs that have columns, `[inputs]`.
        middle: of the region's box, `[D]`.
    """

    layout: Layout
    model: Model
    units: Rows
    used: Int[np.ndarray, "I"]
    middle: Float[np.ndarray, "D"]

    def input_of(self, point: Float[np.ndarray, "V"]) -> Float[np.ndarray, "D"]:
        """The input of a solution; the middle of the region where an input has no column."""
        found = self.middle.copy()
        found[self.used] = point[: self.layout.inputs]
        return found


def cut_program(
    reduced: ReducedNetwork,
    lower: Float[np.ndarray, "D"],
    upper: Float[np.ndarray, "D"],
    row: Float[np.ndarray, "C"],
    offset: float,
    units: Rows | None = None,
) -> CutProgram | None:
    """Write one row of the property.

    Args:
        reduced: with ReLUs only.
        lower: of the inputs, finite.
        upper: likewise.
        row: the margin is `row . outputs + offset`.
        offset: see `row`.
        units: from `unit_rows`, which all rows of a property share; made here if not given.

    Returns:
        `None` where the network has other activations, or bounds that are not finite.
    """
    network = reduced.network
    if any(not isinstance(network.nodes[i].op, ops.Relu) for i in network.activations):
        return None
    feeds = sorted(reduced.origin)
    ends = [reduced.bounds[feed] for feed in feeds]
    low = np.concatenate([np.zeros(0), *(end[0] for end in ends)])
    high = np.concatenate([np.zeros(0), *(end[1] for end in ends)])
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    span = np.concatenate([lower, 0 * low]), np.concatenate([upper, high])
    units = units or unit_rows(reduced, lower, upper)
    output = _thinned(_margin(reduced, row, offset, len(span[0])), *span)
    count = len(lower)
    read = abs(units.weight).sum(axis=0) + abs(output.weight).sum(axis=0)
    used = np.flatnonzero(np.asarray(read).reshape(-1)[:count])
    kept = np.concatenate([used, np.arange(count, len(span[0]))])
    units, output = (Rows(csr_array(r.weight[:, kept]), r.bias, r.slack) for r in (units, output))
    layout = Layout(len(used), len(low))
    model = _model(layout, units, output, (lower[used], upper[used]), (low, high))
    return CutProgram(layout, model, units, used, lower + (upper - lower) / 2)


def unit_rows(
    reduced: ReducedNetwork, lower: Float[np.ndarray, "D"], upper: Float[np.ndarray, "D"]
) -> Rows:
    """The pre-activations of all ReLUs without entries that hardly matter; see `cut_program`."""
    feeds = sorted(reduced.origin)
    high = np.concatenate([np.zeros(0), *(reduced.bounds[feed][1] for feed in feeds)])
    span = np.concatenate([lower, 0 * high]), np.concatenate([upper, high])
    return _thinned(_stacked(reduced, feeds, len(span[0])), *span)


def _stacked(reduced: ReducedNetwork, feeds: list[int], columns: int) -> Rows:
    """The pre-activations of every layer, one below the other."""
    blocks, biases, slacks = [csr_array((0, columns))], [np.zeros(0)], [np.zeros(0)]
    for feed in feeds:
        op = reduced.network.nodes[feed].op
        assert isinstance(op, ops.Linear)
        blocks.append(_widened(csr_array(op.weight), columns))
        biases.append(op.bias)
        slacks.append(reduced.slack[feed])
    return Rows(
        csr_array(vstack(blocks, format="csr")), np.concatenate(biases), np.concatenate(slacks)
    )


def _widened(matrix: csr_array, columns: int) -> csr_array:
    """The same entries, with empty columns behind them."""
    return csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], columns))


def _margin(reduced: ReducedNetwork, row: Array, offset: float, columns: int) -> Rows:
    """The property's row of the outputs; what its coefficients lose to rounding is left to span."""
    last = reduced.network.output
    op = reduced.network.nodes[last].op
    assert isinstance(op, ops.Linear)
    weight = row @ op.weight
    inside = (
        np.abs(row) @ np.abs(op.weight) @ reduced.reach
        + np.abs(row) @ np.abs(op.bias)
        + abs(offset)
    )
    slack = np.abs(row) @ reduced.slack[last] + 2 * gamma(len(row) + 4) * inside
    wide = np.pad(weight, (0, columns - len(weight)))[None]
    return Rows(csr_array(wide), np.array([row @ op.bias + offset]), np.array([slack]))


def _thinned(rows: Rows, lower: Array, upper: Array) -> Rows:
    """Without the entries that hardly matter: each stands at its middle, its range is slack."""
    matrix, (count, width) = rows.weight, rows.weight.shape
    column, row = matrix.indices, np.repeat(np.arange(count), np.diff(matrix.indptr))

    def sums(entries: Array) -> Array:
        return np.asarray(np.bincount(row, entries, count), dtype=np.float64)

    half, middle = (upper - lower) / 2, lower + (upper - lower) / 2
    sway = np.abs(matrix.data) * half[column]
    order = np.lexsort((sway, row))  # row by row, ascending
    total = np.cumsum(sway[order])
    total -= np.concatenate([[0.0], total])[matrix.indptr[row]]
    small = np.zeros(len(sway), dtype=bool)
    small[order] = total <= NEGLIGIBLE_SHARE * sums(sway)[row]
    dropped = np.where(small, matrix.data, 0.0)
    bias = rows.bias + sums(dropped * middle[column])
    # The middle and half of a range are rounded too, by less than its ends' size.
    ends = (np.abs(lower) + np.abs(upper))[column]
    size = sums(np.abs(dropped) * ends) + np.abs(rows.bias)
    lost = sums(np.where(small, sway, 0.0)) + 2 * gamma(width + 8) * size
    kept = csr_array((np.where(small, 0.0, matrix.data), column, matrix.indptr), matrix.shape)
    kept.eliminate_zeros()
    return Rows(kept, bias, rows.slack + lost)


def _model(
    layout: Layout,
    units: Rows,
    output: Rows,
    inputs: tuple[Array, Array],
    bounds: tuple[Array, Array],
) -> Model:
    count, (low, high) = layout.units, bounds
    ones = csr_array(diags_array(np.ones(count), shape=(count, count)))
    empty = csr_array((count, layout.inputs))
    outputs = csr_array(place(np.arange(count), layout.inputs + np.arange(count), 1.0,
                              (count, layout.inputs + count)))  # fmt: skip
    high_phase, low_phase = (
        csr_array(diags_array(-side, shape=(count, count))) for side in (high, low)
    )
    matrix = block_array(
        [
            [csr_array(outputs - units.weight), -ones, None],
            [outputs, None, high_phase],
            [csr_array((count, empty.shape[1] + count)), ones, low_phase],
        ],
        format="csr",
    )
    free, zeros = np.full(count, np.inf), np.zeros(count)
    cost = np.concatenate([output.weight.toarray()[0], zeros, zeros])
    above, below = units.bias + units.slack, units.bias - units.slack
    return Model(
        cost=cost,
        matrix=csr_array(matrix),
        row_lower=np.concatenate([np.nextafter(below, -np.inf), -free, -free]),
        row_upper=np.concatenate([np.nextafter(above, np.inf), zeros, -low]),
        lower=np.concatenate([inputs[0], zeros, zeros, zeros]),
        upper=np.concatenate([inputs[1], high, -low, np.ones(count)]),
        integer=np.zeros(layout.columns, dtype=bool),
        constant=float(np.nextafter(output.bias[0] - output.slack[0], -np.inf)),
    )
