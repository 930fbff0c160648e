"""A target's node program: the distance's columns, the units' triangles, the margin's row.

Columns: the distance's, then `above` and `below` of every unit: `z = above - below`, both at least
0, with `above / high + below / -low <= 1`. A phase is bounds of columns: `below = 0` where the unit
is on, `above = 0` where it is off. In exact arithmetic every input of the ground that attains the
target, with the phases fixed, is a feasible point: rounding widens the rows' sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import block_array, csr_array, diags_array

from closegap.attacks.sparse.columns import DistanceColumns, distance_columns
from closegap.attacks.sparse.ground import Ground
from closegap.attacks.sparse.planes import Ranges
from closegap.core.numerics import gamma
from closegap.mip.model import Model
from closegap.specs.objectives import Objective

__all__ = ["NodeProgram", "node_program"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class NodeProgram:
    """See the module.

    Attributes:
        columns: the distance's.
        model: the root's program. Its first row is the margin, then come the units' equations,
            then their triangles.
        units: how many there are.
    """

    columns: DistanceColumns
    model: Model
    units: int

    @property
    def start(self) -> int:
        """Where the units' columns begin."""
        return len(self.columns.cost)

    @property
    def equations(self) -> slice:
        """The rows of the units' equations."""
        return slice(1, 1 + self.units)

    @property
    def triangles(self) -> slice:
        """The rows of the units' triangles."""
        return slice(1 + self.units, 1 + 2 * self.units)

    def sides(self, ranges: Ranges) -> Array:
        """Lower and upper bounds of the units' columns in a node, `[2, 2 U]`."""
        low, high = ranges.low, ranges.high
        least = np.concatenate([np.maximum(low, 0.0), np.maximum(-high, 0.0)])
        most = np.concatenate([np.maximum(high, 0.0), np.maximum(-low, 0.0)])
        return np.stack([least, np.maximum(least, most)])

    def split(self, point: Float[np.ndarray, "V"]) -> tuple[Array, Array]:
        """The units' columns in a solution."""
        units = point[self.start :]
        return units[: self.units], units[self.units :]


def node_program(ground: Ground, objective: Objective, row: int, ranges: Ranges) -> NodeProgram:
    """Write one target's program, with the triangles of a node."""
    columns = distance_columns(objective, ground)
    count, units = ground.inputs, ground.units
    margin = ground.rows[row]
    reads = csr_array(csr_array(ground.weight[:, :count]) @ columns.matrix)
    through = csr_array(ground.weight[:, count:])
    slopes = csr_array(diags_array(ground.slope, shape=(units, units)))
    one = csr_array(diags_array(np.ones(units), shape=(units, units)))
    low, high = np.minimum(ranges.low, 0.0), np.maximum(ranges.high, 0.0)
    scale = np.exp2(np.round(np.log2(np.maximum(high - low, np.finfo(float).tiny))))
    rise, fall = -low / scale, high / scale
    first = csr_array(margin[None, :count] @ columns.matrix)
    outputs = margin[None, count:]
    matrix = block_array(
        [
            [first, csr_array(outputs), csr_array(-outputs * ground.slope)],
            [-reads, csr_array(one - through), csr_array(through @ slopes - one)],
            [None, csr_array(diags_array(rise, shape=(units, units))),
             csr_array(diags_array(fall, shape=(units, units)))],
        ],
        format="csr",
    )  # fmt: skip
    # Composing the columns' matrix rounds again; scaled by powers of two, the triangles do not.
    size = np.abs(ground.weight) @ ground.reach
    slack = ground.slack + 2 * gamma(8) * (size + np.abs(ground.bias))
    row_size = np.abs(margin) @ ground.reach + abs(ground.offsets[row])
    least = ground.offsets[row] - ground.row_slack[row] - 2 * gamma(8) * row_size
    corner = np.nextafter(rise * high, np.inf)
    free = np.full(units, np.inf)
    cost = np.concatenate([columns.cost, np.zeros(2 * units)])
    bounded = np.concatenate([[-np.inf], ground.bias - slack, -free])
    top = -least
    if not columns.priced:
        cost, top = matrix[[0]].toarray()[0], np.inf
    model = Model(
        cost=cost,
        matrix=csr_array(matrix),
        row_lower=bounded,
        row_upper=np.concatenate([[top], ground.bias + slack, corner]),
        lower=np.concatenate([columns.lower, np.zeros(2 * units)]),
        upper=np.concatenate([columns.upper, high, -low]),
        integer=np.zeros(len(cost), dtype=bool),
        constant=columns.constant if columns.priced else least,
    )
    return NodeProgram(columns, model, units)
