"""Clauses of rows as a property, each with a name a reader understands."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from closegap.specs.property import Property
from closegap.specs.vnnlib.formula import Row

__all__ = ["Clause", "clauses_property"]

Clause: TypeAlias = tuple[Row, ...]

#: A clause of more rows than this is named after the first one.
_NAMED_ROWS = 3


def clauses_property(clauses: tuple[Clause, ...], outputs: int) -> Property:
    """The property that is broken where all rows of some clause (not empty) are at most 0."""
    rows = [row for clause in clauses for row in clause]
    matrix = np.zeros((len(rows), outputs))
    for place, row in enumerate(rows):
        for index, coefficient in row.coefficients:
            matrix[place, index] = coefficient
    return Property(
        rows=matrix,
        offsets=np.array([row.constant for row in rows], dtype=np.float64),
        clause=np.repeat(np.arange(len(clauses)), [len(clause) for clause in clauses]),
        strict=False,
        names=tuple(_clause_name(clause) for clause in clauses),
    )


def _clause_name(clause: Clause) -> str:
    shown = clause if len(clause) <= _NAMED_ROWS else clause[:1]
    text = " and ".join(_row_name(row) for row in shown)
    return text if shown is clause else f"{text} and {len(clause) - 1} more"


def _row_name(row: Row) -> str:
    """The row as an inequality, terms with positive coefficients on the left."""
    left = [_product(c, i) for i, c in row.coefficients if c > 0]
    right = [_product(-c, i) for i, c in row.coefficients if c < 0]
    if right and not left:
        return f"{' + '.join(right)} >= {row.constant:g}"
    limit = 0.0 - row.constant
    if limit or not right:
        right.append(f"{limit:g}")
    return f"{' + '.join(left) or '0'} <= {' + '.join(right)}".replace("+ -", "- ")


def _product(coefficient: float, index: int) -> str:
    return f"Y_{index}" if coefficient == 1 else f"{coefficient:g} Y_{index}"
