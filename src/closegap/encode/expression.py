"""Affine expressions of a program's columns, and the sparse products that compose them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_array, csr_array

from closegap.core.numerics import gamma

__all__ = ["Expression", "multiply", "place", "product_terms", "scaled", "widen"]

#: Where both factors are at least this full, a dense product is faster than a sparse one.
_DENSE = 0.2
#: Entries of the largest dense factor or result that may be unpacked.
_DENSE_ENTRIES = 50_000_000


@dataclass(frozen=True, eq=False)
class Expression:
    """`matrix @ columns + constant`, one row for each entry of a node.

    Attributes:
        matrix: `[N, V]`; V is the number of columns when it was made. Columns are only ever
            appended, so it stays true afterwards (see `widen`).
        constant: `[N]`.
    """

    matrix: csr_array
    constant: Float[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.constant)

    def at(self, values: Float[np.ndarray, "V"]) -> Float[np.ndarray, "N"]:
        """The value at a point, of which the leading columns are read."""
        return np.asarray(self.matrix @ values[: self.matrix.shape[1]] + self.constant)

    def rows(self, chosen: Bool[np.ndarray, "N"] | Int[np.ndarray, "M"]) -> Expression:
        """Some of the rows."""
        return Expression(csr_array(self.matrix[chosen]), self.constant[chosen])

    def span(
        self, lower: Float[np.ndarray, "V"], upper: Float[np.ndarray, "V"]
    ) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
        """Interval that holds the value where `lower <= columns <= upper`, rounding included."""
        width = self.matrix.shape[1]
        positive, negative = self.matrix.maximum(0.0), self.matrix.minimum(0.0)
        low = positive @ lower[:width] + negative @ upper[:width] + self.constant
        high = positive @ upper[:width] + negative @ lower[:width] + self.constant
        reach = np.maximum(np.abs(lower[:width]), np.abs(upper[:width]))
        magnitude = abs(self.matrix) @ reach + np.abs(self.constant)
        rounding = gamma(width + 3) * magnitude
        return np.asarray(low - rounding), np.asarray(high + rounding)


def widen(matrix: csr_array, columns: int) -> csr_array:
    """The same matrix with zero columns appended, sharing its data."""
    return csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], columns))


def place(
    rows: Int[np.ndarray, "M"],
    columns: Int[np.ndarray, "M"],
    values: Float[np.ndarray, "M"] | float,
    shape: tuple[int, int],
) -> csr_array:
    """A sparse matrix with these entries; repeated places are summed."""
    data = np.broadcast_to(np.asarray(values, dtype=np.float64), rows.shape)
    return csr_array(coo_array((data, (rows, columns)), shape=shape))


def scaled(expression: Expression, factor: Float[np.ndarray, "N"], columns: int) -> Expression:
    """`factor * expression`, row by row, over `columns` columns; a factor of 0 leaves no entry."""
    kept = np.flatnonzero(factor)
    selection = place(kept, kept, factor[kept], (len(factor), len(factor)))
    matrix = csr_array(selection @ widen(expression.matrix, columns))
    return Expression(matrix, factor * expression.constant)


def product_terms(weights: csr_array, values: csr_array) -> int:
    """Multiplications in `weights @ values`: an upper bound on the entries of the result."""
    row_entries = np.diff(values.indptr).astype(np.int64)
    return int(row_entries[weights.indices].sum())


def multiply(weights: csr_array, values: csr_array) -> csr_array:
    """`weights @ values`, through a dense product where that is faster."""
    shapes = (weights.shape, values.shape, (weights.shape[0], values.shape[1]))
    small = max(rows * columns for rows, columns in shapes) <= _DENSE_ENTRIES
    if small and _fill(weights) >= _DENSE and _fill(values) >= _DENSE:
        return csr_array(weights.toarray() @ values.toarray())
    return csr_array(weights @ values)


def _fill(matrix: csr_array) -> float:
    entries = matrix.shape[0] * matrix.shape[1]
    return matrix.nnz / entries if entries else 0.0
