"""Linear terms over declared variables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from closegap.core.errors import SpecError
from closegap.specs.vnnlib.sexpr import Expression, Group, SourceText, Symbol

__all__ = ["NUMBER", "Declared", "Linear", "combine", "read_linear"]

#: Names of the declared variables, with the place of each declaration: `{"X_0": 4, ...}`.
Declared: TypeAlias = Mapping[str, int]

#: Integer, decimal or scientific.
NUMBER = r"[-+]?(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?"

_NUMBER = re.compile(NUMBER, re.ASCII)
_RATIO = re.compile(r"([-+]?\d{1,1000})/(\d{1,1000})", re.ASCII)
_VARIABLE = re.compile(r"[XY]_\d++", re.ASCII)


@dataclass(frozen=True, slots=True)
class Linear:
    """`sum of inputs[i] * X_i + sum of outputs[i] * Y_i + constant`."""

    inputs: dict[int, float]
    outputs: dict[int, float]
    constant: float

    @property
    def is_constant(self) -> bool:
        """True iff no variable occurs, not even with coefficient 0."""
        return not (self.inputs or self.outputs)


def combine(left: Linear, factor: float, right: Linear) -> Linear:
    """`left + factor * right`, in float64."""
    inputs, outputs = dict(left.inputs), dict(left.outputs)
    for total, part in ((inputs, right.inputs), (outputs, right.outputs)):
        for index, value in part.items():
            total[index] = total.get(index, 0.0) + factor * value
    return Linear(inputs, outputs, left.constant + factor * right.constant)


_ZERO = Linear({}, {}, 0.0)


def read_linear(source: SourceText, declared: Declared, node: Expression) -> Linear:
    """The linear term that an expression stands for.

    Raises:
        SpecError: a variable is not declared, a word is no number, an operator is unknown, or the
            term is not linear.
    """
    if isinstance(node, Symbol):
        return _atom(source, declared, node)
    head = node.parts[0] if node.parts else None
    if not isinstance(head, Symbol) or head.text not in _OPERATORS:
        known = ", ".join(_OPERATORS)
        found = (
            "nothing" if head is None else f"'{head.shown}'" if isinstance(head, Symbol) else "("
        )
        raise source.error(f"expected one of {known} in a term, found {found}", node.offset)
    if len(node.parts) == 1:
        raise source.error(f"'{head.text}' needs something to work on", node.offset)
    terms = [read_linear(source, declared, part) for part in node.parts[1:]]
    return _OPERATORS[head.text](source, node, terms)


def _atom(source: SourceText, declared: Declared, symbol: Symbol) -> Linear:
    word = symbol.text
    if word in declared:
        index = {int(word[2:]): 1.0}
        return Linear(index, {}, 0.0) if word[0] == "X" else Linear({}, index, 0.0)
    if _VARIABLE.fullmatch(word):
        raise source.error(f"unknown variable '{symbol.shown}': it is not declared", symbol.offset)
    if ratio := _RATIO.fullmatch(word):
        return Linear({}, {}, _divide(source, symbol, int(ratio[1]), int(ratio[2])))
    if not _NUMBER.fullmatch(word):
        raise source.error(
            f"'{symbol.shown}' is neither a number nor a declared variable", symbol.offset
        )
    value = float(word)
    if math.isinf(value):
        raise source.error(f"the number {symbol.shown} does not fit float64", symbol.offset)
    return Linear({}, {}, value)


def _divide(source: SourceText, symbol: Symbol, above: int, below: int) -> float:
    try:
        return float(Fraction(above, below))
    except ZeroDivisionError:
        raise source.error(f"division by zero in {symbol.shown}", symbol.offset) from None
    except OverflowError:
        raise source.error(
            f"the number {symbol.shown} does not fit float64", symbol.offset
        ) from None


def _sum(source: SourceText, node: Group, terms: list[Linear]) -> Linear:
    total = _ZERO
    for term in terms:
        total = combine(total, 1.0, term)
    return total


def _difference(source: SourceText, node: Group, terms: list[Linear]) -> Linear:
    if len(terms) == 1:
        return combine(_ZERO, -1.0, terms[0])
    total = terms[0]
    for term in terms[1:]:
        total = combine(total, -1.0, term)
    return total


def _product(source: SourceText, node: Group, terms: list[Linear]) -> Linear:
    variable = [term for term in terms if not term.is_constant]
    if len(variable) > 1:
        raise _not_linear(source, node, "a product of two terms with variables")
    factor = math.prod(term.constant for term in terms if term.is_constant)
    return combine(_ZERO, factor, variable[0]) if variable else Linear({}, {}, factor)


def _quotient(source: SourceText, node: Group, terms: list[Linear]) -> Linear:
    if len(terms) < 2:
        raise source.error("'/' needs two terms or more", node.offset)
    total = terms[0]
    for term in terms[1:]:
        if not term.is_constant:
            raise _not_linear(source, node, "a division by a term with variables")
        if term.constant == 0:
            raise source.error("division by zero", node.offset)
        inputs, outputs = (
            {index: value / term.constant for index, value in part.items()}
            for part in (total.inputs, total.outputs)
        )
        total = Linear(inputs, outputs, total.constant / term.constant)
    return total


def _not_linear(source: SourceText, node: Group, what: str) -> SpecError:
    return source.error(f"not linear: {what}; only constant factors are supported", node.offset)


_OPERATORS: dict[str, Callable[[SourceText, Group, list[Linear]], Linear]] = {
    "+": _sum,
    "-": _difference,
    "*": _product,
    "/": _quotient,
}
