"""From a script to cases: disjunctive normal form, boxes merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from closegap.core.errors import SpecError
from closegap.specs.region import Box
from closegap.specs.vnnlib.bounds import BoundSet
from closegap.specs.vnnlib.clauses import Clause, clauses_property
from closegap.specs.vnnlib.formula import And, Bound, Formula, Or, Row
from closegap.specs.vnnlib.script import Script
from closegap.specs.vnnlib.sexpr import SourceText
from closegap.specs.vnnlib.spec import Case

__all__ = ["MAX_TERMS", "build_cases"]

#: A formula that expands to more terms than this is refused.
MAX_TERMS = 10_000

#: What stands for a clause that says nothing of the outputs: 0 <= 0.
_ALWAYS = Row((), 0.0)


@dataclass(frozen=True, eq=False, slots=True)
class _Term:
    """A conjunction of bounds and rows."""

    bounds: BoundSet
    rows: Clause

    def meet(self, other: _Term) -> _Term | None:
        """Both; `None` when the bounds leave an input no value."""
        bounds = self.bounds.meet(other.bounds)
        return None if bounds is None else _Term(bounds, (*self.rows, *other.rows))


def build_cases(script: Script, limit: int = MAX_TERMS) -> tuple[Case, ...]:
    """The script's assertions in disjunctive normal form; terms with one box share a case.

    Terms whose box is empty are left out: no input satisfies them.

    Args:
        script: all commands of a file.
        limit: the greatest number of terms.

    Raises:
        SpecError: variables are not numbered from 0 without gaps, an input is not bounded on both
            sides, no input satisfies any term, nothing is said of the outputs, or there are too
            many terms.
    """
    inputs, outputs = _count(script, "X"), _count(script, "Y")
    terms = _expand(script.source, And(tuple(script.formulas), 0), limit)
    if terms and not any(term.rows for term in terms):
        raise SpecError(
            "nothing is asserted of the outputs, so every input would be a counterexample",
            source=script.source.name,
        )
    common = script.bounds.arrays(inputs)
    boxes: dict[tuple[bytes, bytes], Box] = {}
    clauses: dict[tuple[bytes, bytes], dict[Clause, None]] = {}
    for term in terms:
        bounds = script.bounds.meet(term.bounds)
        if bounds is None:
            continue
        lower, upper = common if bounds is script.bounds else bounds.arrays(inputs)
        key = (lower.tobytes(), upper.tobytes())
        if key not in boxes:
            _check_bounded(script, "lower", np.isinf(lower).nonzero()[0].tolist())
            _check_bounded(script, "upper", np.isinf(upper).nonzero()[0].tolist())
            boxes[key] = Box(lower, upper)
        clause = tuple(dict.fromkeys(term.rows)) or (_ALWAYS,)
        clauses.setdefault(key, {})[clause] = None
    if not boxes:
        raise SpecError(
            "no input satisfies the assertions: in every case a lower bound is above an upper one",
            source=script.source.name,
        )
    return tuple(
        Case(box, clauses_property(tuple(clauses[key]), outputs)) for key, box in boxes.items()
    )


def _expand(source: SourceText, formula: Formula, limit: int) -> list[_Term]:
    """The terms of which the formula is the disjunction; terms without inputs are left out."""
    if isinstance(formula, Bound | Row):
        return [_conjunction(source, [formula])]
    if isinstance(formula, Or):
        terms = [term for part in formula.parts for term in _expand(source, part, limit)]
        _check_size(source, formula, len(terms), limit)
        return terms
    parts = list(_flat(formula))
    terms = [_conjunction(source, [part for part in parts if isinstance(part, Bound | Row)])]
    for part in parts:
        if isinstance(part, Or):
            factors = _expand(source, part, limit)
            _check_size(source, part, len(terms) * len(factors), limit)
            met = (term.meet(factor) for term in terms for factor in factors)
            terms = [term for term in met if term is not None]
    return terms


def _flat(formula: And) -> Iterator[Bound | Row | Or]:
    for part in formula.parts:
        if isinstance(part, And):
            yield from _flat(part)
        else:
            yield part


def _conjunction(source: SourceText, atoms: Iterable[Bound | Row]) -> _Term:
    """One term of atoms that stand together.

    Bounds that contradict each other here are a mistake of the file, unlike those that meet only
    when alternatives are multiplied out.
    """
    bounds = BoundSet()
    rows: list[Row] = []
    for atom in atoms:
        if isinstance(atom, Row):
            rows.append(atom)
        else:
            bounds.tighten(source, atom)
    return _Term(bounds, tuple(rows))


def _check_size(source: SourceText, formula: Or, terms: int, limit: int) -> None:
    if terms > limit:
        raise source.error(
            f"the assertions expand to {terms} or more alternatives, above the limit of {limit}; "
            "split the file into several",
            formula.offset,
        )


def _count(script: Script, kind: str) -> int:
    """How many variables of kind `"X"` or `"Y"` there are."""
    names = [name for name in script.declared if name[0] == kind]
    if not names:
        what = "input" if kind == "X" else "output"
        raise SpecError(
            f"no {what} is declared: (declare-const {kind}_0 Real) is missing",
            source=script.source.name,
        )
    for index in range(len(names)):
        if f"{kind}_{index}" not in script.declared:
            last = max(names, key=lambda name: int(name[2:]))
            raise script.source.error(
                f"'{last}' is declared, but '{kind}_{index}' is not", script.declared[last]
            )
    return len(names)


def _check_bounded(script: Script, side: str, free: list[int]) -> None:
    if free:
        name = f"X_{free[0]}"
        raise script.source.error(
            f"input {name} has no {side} bound; every input needs both", script.declared[name]
        )
