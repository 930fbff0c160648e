"""Specifications as VNN-LIB text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from closegap.specs.property import Property
from closegap.specs.region import Box
from closegap.specs.vnnlib.spec import Spec

__all__ = ["write_vnnlib"]


def write_vnnlib(spec: Spec) -> str:
    """The specification as text that reads back as the same cases, every number exact.

    Args:
        spec: one case is written as assertions of its bounds and its property, several as one `or`
            of them. A strict property loses its strictness: VNN-LIB has closed sets here.
    """
    names = [f"X_{i}" for i in range(spec.inputs)] + [f"Y_{i}" for i in range(spec.outputs)]
    lines = [f"(declare-const {name} Real)" for name in names]
    if len(spec.cases) == 1:
        case = spec.cases[0]
        lines += [f"(assert {formula})" for formula in (*_bounds(case.box), _property(case.prop))]
    else:
        parts = [f"(and {' '.join(_bounds(c.box))} {_property(c.prop)})" for c in spec.cases]
        lines += ["(assert (or", *parts, "))"]
    return "\n".join(lines) + "\n"


def _bounds(box: Box) -> list[str]:
    pairs = zip(box.lower.tolist(), box.upper.tolist(), strict=True)
    return [
        text
        for index, (low, high) in enumerate(pairs)
        for text in (f"(>= X_{index} {low!r})", f"(<= X_{index} {high!r})")
    ]


def _property(prop: Property) -> str:
    rows = [_row(row, float(offset)) for row, offset in zip(prop.rows, prop.offsets, strict=True)]
    clauses = [
        f"(and {' '.join(rows[place] for place in np.flatnonzero(members))})"
        for members in prop.membership
    ]
    return "\n  ".join(("(or", *clauses)) + ")"


def _row(row: NDArray[np.float64], offset: float) -> str:
    """`row . y + offset <= 0`."""
    limit = 0.0 - offset
    terms = [(index, float(row[index])) for index in np.flatnonzero(row).tolist()]
    if offset == 0 and sorted(c for _, c in terms) == [-1.0, 1.0]:
        left, right = sorted(terms, key=lambda term: -term[1])
        return f"(<= Y_{left[0]} Y_{right[0]})"
    if len(terms) == 1 and abs(terms[0][1]) == 1:
        index, sign = terms[0]
        return f"(<= Y_{index} {limit!r})" if sign > 0 else f"(>= Y_{index} {offset!r})"
    products = [f"(* {c!r} Y_{index})" for index, c in terms]
    return f"(<= {_sum(products)} {limit!r})"


def _sum(products: list[str]) -> str:
    if len(products) == 1:
        return products[0]
    return f"(+ {' '.join(products)})" if products else "0.0"
