"""Assertions: comparisons of linear terms, joined by `and` and `or`."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from closegap.specs.vnnlib.formula import And, Bound, Formula, Or, Row
from closegap.specs.vnnlib.linear import Declared, Linear, combine, read_linear
from closegap.specs.vnnlib.sexpr import Expression, Group, SourceText, Symbol

__all__ = ["read_formula"]


def read_formula(source: SourceText, declared: Declared, node: Expression) -> Formula:
    """The formula that an expression stands for.

    Strict comparisons are read as closed ones.

    Raises:
        SpecError: an operator is unknown or lacks arguments, a comparison mixes inputs and outputs,
            or one of inputs is not a simple bound.
    """
    if isinstance(node, Symbol):
        if node.text in _CONSTANTS:
            return Row((), _CONSTANTS[node.text])
        raise source.error(f"expected a formula, found '{node.shown}'", node.offset)
    head = node.parts[0] if node.parts else None
    word = head.text if isinstance(head, Symbol) else ""
    if word in _JOINTS:
        parts = tuple(read_formula(source, declared, part) for part in node.parts[1:])
        if not parts:
            raise source.error(f"'{word}' needs at least one formula", node.offset)
        return _JOINTS[word](parts, node.offset)
    if word in _COMPARISONS:
        return _comparison(source, declared, node, word)
    known = ", ".join((*_JOINTS, *_COMPARISONS))
    found = f"'{head.shown}'" if isinstance(head, Symbol) else "'('" if head else "nothing"
    raise source.error(f"expected one of {known} in a formula, found {found}", node.offset)


_JOINTS: dict[str, Callable[[tuple[Formula, ...], int], Formula]] = {"and": And, "or": Or}
#: For every comparison of a and b the factors f that make `f * (a - b) <= 0` hold.
_COMPARISONS: dict[str, tuple[float, ...]] = {
    "<=": (1.0,),
    ">=": (-1.0,),
    "<": (1.0,),
    ">": (-1.0,),
    "=": (1.0, -1.0),
}
#: As the constant of a row without outputs.
_CONSTANTS = {"true": 0.0, "false": 1.0}


def _comparison(source: SourceText, declared: Declared, node: Group, word: str) -> Formula:
    if len(node.parts) < 3:
        raise source.error(f"'{word}' compares two terms, got {len(node.parts) - 1}", node.offset)
    terms = [read_linear(source, declared, part) for part in node.parts[1:]]
    atoms = tuple(
        _atom(source, node, combine(left, -1.0, right), factor)
        for left, right in pairwise(terms)
        for factor in _COMPARISONS[word]
    )
    return atoms[0] if len(atoms) == 1 else And(atoms, node.offset)


def _atom(source: SourceText, node: Group, difference: Linear, factor: float) -> Bound | Row:
    """`factor * difference <= 0`."""
    numbers = (*difference.inputs.values(), *difference.outputs.values(), difference.constant)
    if not all(map(math.isfinite, numbers)):
        raise source.error("a number in this comparison does not fit float64", node.offset)
    if difference.inputs and difference.outputs:
        raise source.error(
            "inputs and outputs in one comparison are not supported; compare inputs with constants "
            "and outputs with outputs or constants",
            node.offset,
        )
    if difference.inputs:
        return _bound(source, node, difference, factor)
    pairs = tuple((i, factor * c) for i, c in sorted(difference.outputs.items()) if c)
    # Adding 0.0 turns a negative zero into zero.
    return Row(pairs, factor * difference.constant + 0.0)


def _bound(source: SourceText, node: Group, difference: Linear, factor: float) -> Bound:
    (index, slope), *more = difference.inputs.items()
    if more or slope == 0:
        raise source.error(
            "only simple bounds on inputs are supported, one input and one constant: "
            "(<= X_i c), (>= X_i c) or (= X_i c)",
            node.offset,
        )
    value = -difference.constant / slope + 0.0
    if math.isinf(value):
        raise source.error("the bound does not fit float64", node.offset)
    return Bound(index, factor * slope > 0, value, node.offset)
