"""A target's node program: the distance's columns, the units' triangles, the margin's row.

Columns: the distance's, then `above` and `below` of every unit: `z = above - below`, both at least
0, with `above / high + below / -low <= 1`. A phase is bounds of columns: `below = 0` where the unit
is on, `above = 0` where it is off. Rows over groups of units come last; their limits rise with the
phases that are fixed. In exact arithmetic every input of the ground that attains the
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
from closegap.attacks.sparse.group_rows import GroupRows
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
            then their triangles, then rows over groups of them.
        units: how many there are.
        rows: over groups of units.
        lost: by how much the program's rows over groups are wider, for rounding, `[R]`.
    """

    columns: DistanceColumns
    model: Model
    units: int
    rows: GroupRows
    lost: Float[np.ndarray, "R"]

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

    @property
    def joint(self) -> slice:
        """The rows over groups of units."""
        return slice(1 + 2 * self.units, 1 + 2 * self.units + self.rows.count)

    def limits(self, ranges: Ranges) -> Float[np.ndarray, "R"]:
        """Lower bounds of the rows over groups in a node."""
        return np.asarray(self.rows.within(ranges).limits[0] - self.lost)

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


def node_program(
    ground: Ground, objective: Objective, row: int, ranges: Ranges, rows: GroupRows
) -> NodeProgram:
    """Write one target's program, with the triangles of a node.

    Args:
        ground: the network.
        objective: the distance.
        row: the target's.
        ranges: of the node.
        rows: over groups of units.
    """
    columns = distance_columns(objective, ground)
    units = ground.units
    margin = ground.rows[row]
    low, high = np.minimum(ranges.low, 0.0), np.maximum(ranges.high, 0.0)
    scale = np.exp2(np.round(np.log2(np.maximum(high - low, np.finfo(float).tiny))))
    rise, fall = -low / scale, high / scale
    matrix = _matrix(ground, columns, margin, (rise, fall), rows)
    # Composing the columns' matrix rounds again; scaled by powers of two, the triangles do not.
    size = np.abs(ground.weight) @ ground.reach
    slack = ground.slack + 2 * gamma(8) * (size + np.abs(ground.bias))
    row_size = np.abs(margin) @ ground.reach + abs(ground.offsets[row])
    least = ground.offsets[row] - ground.row_slack[row] - 2 * gamma(8) * row_size
    corner = np.nextafter(rise * high, np.inf)
    free = np.full(units, np.inf)
    cost = np.concatenate([columns.cost, np.zeros(2 * units)])
    lost = 4 * gamma(8) * rows.size
    limits = rows.within(ranges).limits[0] - lost
    bounded = np.concatenate([[-np.inf], ground.bias - slack, -free, limits])
    top = -least
    if not columns.priced:
        cost, top = matrix[[0]].toarray()[0], np.inf
    model = Model(
        cost=cost,
        matrix=matrix,
        row_lower=bounded,
        row_upper=np.concatenate([[top], ground.bias + slack, corner, np.full(rows.count, np.inf)]),
        lower=np.concatenate([columns.lower, np.zeros(2 * units)]),
        upper=np.concatenate([columns.upper, high, -low]),
        integer=np.zeros(len(cost), dtype=bool),
        constant=columns.constant if columns.priced else least,
    )
    return NodeProgram(columns, model, units, rows, lost)


def _matrix(
    ground: Ground,
    columns: DistanceColumns,
    margin: Float[np.ndarray, "C"],
    sides: tuple[Array, Array],
    rows: GroupRows,
) -> csr_array:
    """The margin's row, the units' equations, their triangles' upper sides, rows over groups."""
    count, units = ground.inputs, ground.units
    reads = csr_array(csr_array(ground.weight[:, :count]) @ columns.matrix)
    through = csr_array(ground.weight[:, count:])
    slopes, one, rise, fall = (
        csr_array(diags_array(side, shape=(units, units)))
        for side in (ground.slope, np.ones(units), *sides)
    )
    outputs = margin[None, count:]
    return csr_array(
        block_array(
            [
                [
                    csr_array(margin[None, :count] @ columns.matrix),
                    csr_array(outputs),
                    csr_array(-outputs * ground.slope),
                ],
                [-reads, csr_array(one - through), csr_array(through @ slopes - one)],
                [None, rise, fall],
                [
                    None,
                    csr_array(rows.inner + rows.outer),
                    csr_array(-rows.inner - rows.outer * ground.slope),
                ],
            ],
            format="csr",
        )
    )
