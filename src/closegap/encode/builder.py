"""Collects columns and rows in blocks, and joins them into a model once."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from closegap.encode.expression import Expression, place, widen
from closegap.mip.model import Model

__all__ = ["ModelBuilder"]

Array: TypeAlias = NDArray[np.float64]
Columns: TypeAlias = NDArray[np.int64]


class ModelBuilder:
    """Columns and rows of a model in the making. Both are only ever appended."""

    def __init__(self) -> None:
        self._lower: list[Array] = []
        self._upper: list[Array] = []
        self._integer: list[NDArray[np.bool_]] = []
        self._rows: list[csr_array] = []
        self._row_lower: list[Array] = []
        self._row_upper: list[Array] = []
        self.columns = 0

    @classmethod
    def of(cls, model: Model) -> ModelBuilder:
        """Begin with a model's columns and rows; its cost is left behind."""
        builder = cls()
        builder._lower, builder._upper = [model.lower], [model.upper]
        builder._integer, builder._rows = [model.integer], [model.matrix]
        builder._row_lower, builder._row_upper = [model.row_lower], [model.row_upper]
        builder.columns = model.columns
        return builder

    def add_columns(self, lower: Array, upper: Array, *, integer: bool = False) -> Columns:
        """Append columns with these bounds; returns their indices."""
        count = len(lower)
        self._lower.append(np.asarray(lower, dtype=np.float64))
        self._upper.append(np.asarray(upper, dtype=np.float64))
        self._integer.append(np.full(count, integer))
        self.columns += count
        return np.arange(self.columns - count, self.columns)

    def add_binaries(self, count: int) -> Columns:
        """Append columns that are 0 or 1."""
        return self.add_columns(np.zeros(count), np.ones(count), integer=True)

    def add_rows(self, matrix: csr_array, lower: Array | float, upper: Array | float) -> None:
        """Append `lower <= matrix @ columns <= upper`."""
        count = matrix.shape[0]
        if count == 0:
            return
        self._rows.append(matrix)
        self._row_lower.append(np.broadcast_to(np.asarray(lower, dtype=np.float64), count))
        self._row_upper.append(np.broadcast_to(np.asarray(upper, dtype=np.float64), count))

    def add_expression_rows(
        self, expression: Expression, lower: Array | float, upper: Array | float
    ) -> None:
        """Append `lower <= expression <= upper`."""
        constant = expression.constant
        self.add_rows(expression.matrix, lower - constant, upper - constant)

    def picked(self, columns: Columns, factor: Array | float = 1.0) -> csr_array:
        """`[len(columns), V]`: row i is `factor[i]` at `columns[i]`."""
        return place(np.arange(len(columns)), columns, factor, (len(columns), self.columns))

    def wide(self, expression: Expression) -> csr_array:
        """The expression's matrix over all columns there are now."""
        return widen(expression.matrix, self.columns)

    @property
    def lower(self) -> Array:
        """Lower bounds of all columns so far."""
        return np.concatenate([np.zeros(0), *self._lower])

    @property
    def upper(self) -> Array:
        """Upper bounds of all columns so far."""
        return np.concatenate([np.zeros(0), *self._upper])

    def build(self, cost: Array, constant: float) -> Model:
        """The model; `cost` may be shorter than the columns (the rest costs nothing)."""
        full = np.zeros(self.columns)
        full[: len(cost)] = cost
        blocks = [widen(rows, self.columns) for rows in self._rows]
        empty = csr_array((0, self.columns))
        return Model(
            cost=full,
            matrix=csr_array(vstack(blocks, format="csr")) if blocks else empty,
            row_lower=np.concatenate([np.zeros(0), *self._row_lower]),
            row_upper=np.concatenate([np.zeros(0), *self._row_upper]),
            lower=self.lower,
            upper=self.upper,
            integer=np.concatenate([np.zeros(0, dtype=bool), *self._integer]),
            constant=constant,
        )
