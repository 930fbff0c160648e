"""A query written as a program, and the way between points and columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.encode.expression import Expression
from closegap.encode.units import Units
from closegap.mip.model import Model
from closegap.specs.query import Query
from closegap.specs.region import bounding_box

__all__ = ["EncodedNetwork"]


@dataclass(frozen=True, eq=False)
class EncodedNetwork:
    """A clause of a query: minimise its margin.

    Every point of the region has, in exact arithmetic, a feasible completion whose objective is
    the clause's margin there (with `Purpose.ATTACK` only if it keeps clear of all signs' zeros, and
    with fixed phases only if it has them). So the program's optimum bounds the least margin from
    below; it equals it if `exact`.

    Attributes:
        model: the program.
        query: what was encoded.
        clause: which clause of the property.
        inputs: columns of the input entries, `[D]`.
        margin: the clause's row margins, of the columns, `[Q]`.
        units: what the other columns mean, in the order they are computed.
        inexact: why the program may have feasible points that no input has; empty if `exact`.
    """

    model: Model
    query: Query
    clause: int
    inputs: NDArray[np.int64]
    margin: Expression
    units: tuple[Units, ...]
    inexact: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """True iff every feasible point is, up to tolerances, a pass through the network."""
        return not self.inexact

    @cached_property
    def binaries(self) -> int:
        """Number of integer columns."""
        return int(self.model.integer.sum())

    @cached_property
    def phase_columns(self) -> NDArray[np.int64]:
        """`[P, 3]`: pre-activation node, neuron, and the binary column that decides it."""
        blocks = [u.phases for u in self.units if len(u.phases.columns)]
        rows = [
            np.stack([np.full(len(p.columns), p.node), p.neurons, p.columns], axis=1)
            for p in blocks
        ]
        return np.concatenate([np.zeros((0, 3), dtype=np.int64), *rows])

    def start_from(self, point: NDArray[np.floating]) -> Float[np.ndarray, "V"]:
        """A value for every column, by a forward pass from a point of the region.

        Feasible (up to rounding) unless fixed phases, or an attack's gap around the zeros of
        signs, exclude the point. The point is clipped into the region's box.
        """
        model = self.model
        values = np.zeros(model.columns)
        flat = np.asarray(point, dtype=np.float64).reshape(-1)
        values[self.inputs] = np.clip(flat, model.lower[self.inputs], model.upper[self.inputs])
        for block in self.units:
            block.fill(values)
        return np.asarray(np.clip(values, model.lower, model.upper))

    def point_of(self, values: Float[np.ndarray, "V"]) -> NDArray[np.float64]:
        """The input in a solution, in the network's input shape, clipped into the region's box."""
        box = bounding_box(self.query.region)
        point = values[self.inputs].reshape(box.lower.shape)
        return np.asarray(np.clip(point, box.lower, box.upper))

    def objective_at(self, values: Float[np.ndarray, "V"]) -> float:
        """The program's objective at a value of every column."""
        return float(self.model.cost @ values) + self.model.constant
