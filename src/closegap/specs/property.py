"""Conditions on the outputs, as linear rows in disjunctive normal form."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import SpecError

__all__ = ["Property", "robustness_property", "targeted_property"]


@dataclass(frozen=True, eq=False)
class Property:
    """The property is broken at outputs y iff in some clause every row has `row . y + offset <= 0`.

    The *margin* of a row is `row . y + offset`; of a clause the greatest of its rows' margins; of
    the property the least of its clauses' margins. The property holds on a region iff the margin
    is positive everywhere in it.

    Attributes:
        rows: `[Q, C]`, kept in float64.
        offsets: `[Q]`, kept in float64.
        clause: `[Q]`, kept in int64: the clause of each row, numbered 0, 1, ... without gaps.
        strict: a counterexample must have a margin below 0 (classification), not merely at most 0
            (VNN-LIB). A proof always needs a positive margin.
        names: one word or two for each clause, for reports (the target class, say).
        label: the true class, where the property is robustness.
        target: the class that breaks it by winning over all others, where the property is that.
    """

    rows: NDArray[np.float64]
    offsets: NDArray[np.float64]
    clause: NDArray[np.int64]
    strict: bool
    names: tuple[str, ...]
    label: int | None = None
    target: int | None = None

    def __post_init__(self) -> None:
        for name, kind in (("rows", np.float64), ("offsets", np.float64), ("clause", np.int64)):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=kind))
        count = len(self.rows)
        if self.rows.ndim != 2 or self.offsets.shape != (count,) or self.clause.shape != (count,):
            raise SpecError("a property's rows, offsets and clauses must have one length")
        if not np.array_equal(np.unique(self.clause), np.arange(len(self.names))):
            raise SpecError("a property's clauses must be numbered 0, 1, ... and each have a name")
        if not (np.isfinite(self.rows).all() and np.isfinite(self.offsets).all()):
            raise SpecError("a property's coefficients must be finite")

    @property
    def clauses(self) -> int:
        """Number of clauses (K)."""
        return len(self.names)

    @cached_property
    def membership(self) -> NDArray[np.bool_]:
        """`[K, Q]`: which rows belong to which clause."""
        return np.asarray(np.arange(self.clauses)[:, None] == self.clause[None, :])

    @property
    def compares_outputs_only(self) -> bool:
        """True iff every row is a positive multiple of a difference of two outputs, no constant."""
        pairs = (np.count_nonzero(self.rows, axis=1) == 2) & (self.rows.sum(axis=1) == 0)
        return bool(pairs.all() and (self.offsets == 0).all())

    def row_margins(self, outputs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Margins `[B, Q]` (float64) of outputs `[B, C]`."""
        return outputs.astype(np.float64) @ self.rows.T + self.offsets

    def clause_values(self, row_values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Greatest row value in each clause: `[B, Q] -> [B, K]`.

        Of margins it gives the clause margins; of proved lower bounds it gives proved lower bounds.
        One that is NaN makes its clause's NaN. Memory is that of the row values, however many
        clauses there are.
        """
        if not self.clauses:
            return np.zeros((len(row_values), 0))
        order, first = self._grouped
        return np.asarray(np.maximum.reduceat(row_values[:, order], first, axis=1))

    @cached_property
    def _grouped(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows in the order of their clauses, and where each clause begins there."""
        order = np.argsort(self.clause, kind="stable")
        return order, np.searchsorted(self.clause[order], np.arange(self.clauses))

    def margins(self, outputs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Margin of the property at each of the outputs `[B, C]`: `[B]`."""
        if not self.clauses:
            return np.full(len(outputs), np.inf)
        return np.asarray(self.clause_values(self.row_margins(outputs)).min(axis=1))

    def single(self, clause: int) -> Property:
        """The property that only this clause can break; its margins are never below the whole's."""
        chosen = self.clause == clause
        return replace(
            self,
            rows=self.rows[chosen],
            offsets=self.offsets[chosen],
            clause=np.zeros(int(chosen.sum()), dtype=np.int64),
            names=(self.names[clause],),
        )

    def broken_by(self, margin: float) -> bool:
        """True iff an exactly evaluated margin breaks the property."""
        return margin < 0 if self.strict else margin <= 0


def robustness_property(label: int, classes: int, target: int | None = None) -> Property:
    """`f_label - f_t > 0` for every other class t, or for one `target` only.

    Raises:
        SpecError: label or target is not a class, or they are the same.
    """
    if not 0 <= label < classes:
        raise SpecError(f"label {label} is not a class: the network has outputs 0..{classes - 1}")
    if target is not None and (not 0 <= target < classes or target == label):
        raise SpecError(f"target {target} is not another class than {label} in 0..{classes - 1}")
    others = [t for t in range(classes) if t != label] if target is None else [target]
    rows = np.zeros((len(others), classes))
    rows[:, label] = 1.0
    rows[np.arange(len(others)), others] = -1.0
    return Property(
        rows=rows,
        offsets=np.zeros(len(others)),
        clause=np.arange(len(others)),
        strict=True,
        names=tuple(str(t) for t in others),
        label=label,
    )


def targeted_property(target: int, classes: int) -> Property:
    """`f_j - f_target > 0` for some other class j: broken where the target wins over all of them.

    Raises:
        SpecError: the target is not a class, or there is no other.
    """
    if not 0 <= target < classes:
        raise SpecError(f"target {target} is not a class: the network has outputs 0..{classes - 1}")
    if classes < 2:
        raise SpecError("the network has one output: there is no class to win over")
    rows = np.delete(np.eye(classes), target, axis=0)
    rows[:, target] = -1.0
    return Property(
        rows=rows,
        offsets=np.zeros(classes - 1),
        clause=np.zeros(classes - 1, dtype=np.int64),
        strict=True,
        names=(str(target),),
        target=target,
    )
