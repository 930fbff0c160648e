"""Formulas over inputs and outputs, as they are read and before they are expanded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["And", "Bound", "Formula", "Or", "Row"]


@dataclass(frozen=True, slots=True)
class Bound:
    """`X_index <= value` where `upper`, else `X_index >= value`."""

    index: int
    upper: bool
    value: float
    offset: int


@dataclass(frozen=True, slots=True)
class Row:
    """`sum of coefficient * Y_index, plus constant, <= 0`; pairs (index, coefficient), sorted,
    no coefficient 0.

    Without pairs it is a constant: true iff `constant <= 0`.
    """

    coefficients: tuple[tuple[int, float], ...]
    constant: float


@dataclass(frozen=True, slots=True)
class And:
    """All parts hold. Without parts: true."""

    parts: tuple[Formula, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Or:
    """Some part holds."""

    parts: tuple[Formula, ...]
    offset: int


Formula: TypeAlias = Bound | Row | And | Or
