"""What the columns of a model mean: one record for each block of columns.

Each record can compute its own columns from earlier ones (`fill`), which makes a forward pass:
that is how a candidate input becomes a complete starting point for a solver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from closegap.encode.expression import Expression

__all__ = [
    "BallUnits",
    "CopyUnits",
    "MaxUnits",
    "NoPhases",
    "ObjectiveUnits",
    "Phases",
    "SignUnits",
    "SmoothUnits",
    "SplitUnits",
    "Units",
    "ZeroSignUnits",
]

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Phases:
    """Which binary column says that which entry of a pre-activation node is on.

    Attributes:
        node: index of the pre-activation node.
        neurons: `[N]`, flat entries of the node. A column is 1 where the entry's activation is on
            (for `Max`: where the entry is the greatest of its window).
        columns: `[N]`.
    """

    node: int
    neurons: Indices
    columns: Indices


NoPhases = Phases(-1, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@runtime_checkable
class Units(Protocol):
    """A block of columns with one meaning."""

    @property
    def phases(self) -> Phases:
        """The block's binary columns that decide a phase; `NoPhases` where it has none."""

    def fill(self, values: Array) -> None:
        """Set the block's own columns in `values [V]`, reading only earlier ones."""


@dataclass(frozen=True, eq=False)
class BallUnits:
    """Distances `|x_i - center_i|` of an l1 ball."""

    center: Array
    inputs: Indices
    distances: Indices
    phases: Phases = NoPhases

    def fill(self, values: Array) -> None:
        """See `Units`."""
        values[self.distances] = np.abs(values[self.inputs] - self.center)


@dataclass(frozen=True, eq=False)
class CopyUnits:
    """Columns that name an expression, where composing it further would fill the rows."""

    node: int
    expression: Expression
    columns: Indices
    phases: Phases = NoPhases

    def fill(self, values: Array) -> None:
        """See `Units`."""
        values[self.columns] = self.expression.at(values)


@dataclass(frozen=True, eq=False)
class SplitUnits:
    """Undecided (leaky) ReLUs: `pre-activation = positive - negative`, both at least 0."""

    node: int
    neurons: Indices
    expression: Expression
    positive: Indices
    negative: Indices
    phases: Phases

    def fill(self, values: Array) -> None:
        """See `Units`."""
        z = self.expression.at(values)
        values[self.positive] = np.maximum(z, 0.0)
        values[self.negative] = np.maximum(-z, 0.0)
        values[self.phases.columns] = z[: len(self.phases.columns)] >= 0


@dataclass(frozen=True, eq=False)
class SignUnits:
    """Undecided signs: the value is `2 phase - 1` (or, relaxed, a continuous phase)."""

    node: int
    neurons: Indices
    expression: Expression
    columns: Indices
    phases: Phases

    def fill(self, values: Array) -> None:
        """See `Units`."""
        values[self.columns] = self.expression.at(values) >= 0


@dataclass(frozen=True, eq=False)
class ZeroSignUnits:
    """Undecided signs with a value of 0 at 0: `on - off`, at most one of them 1."""

    node: int
    neurons: Indices
    expression: Expression
    on: Indices
    off: Indices
    phases: Phases

    def fill(self, values: Array) -> None:
        """See `Units`."""
        z = self.expression.at(values)
        values[self.on] = z > 0
        values[self.off] = z < 0


@dataclass(frozen=True, eq=False)
class MaxUnits:
    """Undecided windows: `greatest[window] = pre-activation + shortfall`.

    One entry of `window`, `expression` and `shortfall` for each (window, candidate) pair.
    """

    node: int
    greatest: Indices
    window: Indices
    expression: Expression
    shortfall: Indices
    phases: Phases

    def fill(self, values: Array) -> None:
        """See `Units`."""
        z = self.expression.at(values)
        best = np.full(len(self.greatest), -np.inf)
        np.maximum.at(best, self.window, z)
        values[self.greatest] = best
        values[self.shortfall] = best[self.window] - z
        order = np.lexsort((-z, self.window))
        first = order[np.unique(self.window[order], return_index=True)[1]]
        values[self.phases.columns] = 0.0
        if len(self.phases.columns):
            values[self.phases.columns[first]] = 1.0


@dataclass(frozen=True, eq=False)
class SmoothUnits:
    """Sigmoids and tanhs, relaxed: columns of their inputs and outputs."""

    node: int
    neurons: Indices
    expression: Expression
    inputs: Indices
    outputs: Indices
    tanh: bool
    phases: Phases = NoPhases

    def fill(self, values: Array) -> None:
        """See `Units`."""
        z = self.expression.at(values)
        values[self.inputs] = z
        values[self.outputs] = np.tanh(z) if self.tanh else 0.5 + 0.5 * np.tanh(0.5 * z)


@dataclass(frozen=True, eq=False)
class ObjectiveUnits:
    """The margin of a clause of several rows: the greatest of its rows' margins."""

    expression: Expression
    column: Indices
    phases: Phases = NoPhases

    def fill(self, values: Array) -> None:
        """See `Units`."""
        values[self.column] = self.expression.at(values).max()
