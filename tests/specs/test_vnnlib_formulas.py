"""Formulas made at random: the cases say the same as the formula itself, at every point."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pytest
from _spec_compare import same
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from closegap.core.errors import SpecError
from closegap.specs.vnnlib import Spec, parse_vnnlib, write_vnnlib

Expression: TypeAlias = "str | list[Expression]"
Point: TypeAlias = Mapping[str, Fraction]

INPUTS, OUTPUTS = 2, 3
# Exact in binary, and few, so that points often lie on the border of a comparison.
NUMBERS = ("-2", "-1.5", "-1", "-0.5", "0.0", ".5", "1", "1.50", "2e0", "25e-1", "3/2", "+1.")
VALUES = [Fraction(n, 2) for n in range(-5, 6)]


def number(word: str) -> Fraction:
    return Fraction(word.removeprefix("+").removesuffix("."))


def holds(formula: Expression, point: Point) -> bool:
    """The formula's meaning, straight from its text; strict comparisons read as closed."""
    if isinstance(formula, str):
        return {"true": True, "false": False}[formula]
    head, *parts = formula
    if head == "and":
        return all(holds(part, point) for part in parts)
    if head == "or":
        return any(holds(part, point) for part in parts)
    values = [value(part, point) for part in parts]
    pairs = list(pairwise(values))
    if head in ("<=", "<"):
        return all(a <= b for a, b in pairs)
    if head in (">=", ">"):
        return all(a >= b for a, b in pairs)
    assert head == "="
    return all(a == b for a, b in pairs)


def value(term: Expression, point: Point) -> Fraction:
    if isinstance(term, str):
        return point[term] if term in point else number(term)
    head, *parts = term
    values = [value(part, point) for part in parts]
    total = values[0]
    if head == "-" and len(values) == 1:
        return -total
    for other in values[1:]:
        total = {"+": total + other, "-": total - other, "*": total * other}[str(head)]
    return total


def text_of(formula: Expression) -> str:
    return formula if isinstance(formula, str) else f"({' '.join(map(text_of, formula))})"


numbers = st.sampled_from(NUMBERS)
relations = st.sampled_from(["<=", ">=", "<", ">", "="])
inputs = st.sampled_from([f"X_{i}" for i in range(INPUTS)])
outputs = st.sampled_from([f"Y_{i}" for i in range(OUTPUTS)])
bounds = st.one_of(
    st.tuples(st.sampled_from(["<=", ">=", "<"]), inputs, numbers).map(list),
    st.tuples(st.just("<="), numbers, inputs).map(list),
    st.tuples(st.just("<="), st.tuples(st.just("-"), inputs).map(list), numbers).map(list),
    st.tuples(st.just(">="), st.tuples(st.just("*"), st.just("2"), inputs).map(list), numbers).map(
        list
    ),
    st.tuples(st.just("<="), st.just("-2"), inputs, st.sampled_from(["1", "2"])).map(list),
)
terms = st.recursive(
    st.one_of(outputs, numbers),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["+", "-"]), inner, inner).map(list),
        st.tuples(st.just("+"), inner, inner, inner).map(list),
        st.tuples(st.just("-"), inner).map(list),
        st.tuples(st.just("*"), numbers, inner).map(list),
        st.tuples(st.just("*"), inner, numbers).map(list),
    ),
    max_leaves=4,
)
rows = st.one_of(
    st.tuples(relations, outputs, outputs).map(list),
    st.tuples(relations, outputs, numbers).map(list),
    st.tuples(relations, terms, terms).map(list),
    st.tuples(st.just(">="), outputs, outputs, terms).map(list),
)
formulas = st.recursive(
    st.one_of(bounds, rows, rows, st.sampled_from(["true", "false"])),
    lambda inner: st.builds(
        lambda head, parts: [head, *parts],
        st.sampled_from(["and", "or", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
)
NAMES = [*(f"X_{i}" for i in range(INPUTS)), *(f"Y_{i}" for i in range(OUTPUTS))]
DECLARATIONS = "".join(f"(declare-const {name} Real)\n" for name in NAMES)
#: Every input lies in [-2, 2] at least; the grid of points reaches beyond.
FRAME: list[Expression] = [
    [relation, f"X_{i}", bound]
    for i in range(INPUTS)
    for relation, bound in (("<=", "2"), (">=", "-2"))
]


def satisfied(spec: Spec, point: Point) -> bool:
    """True iff the point lies in a case's box and breaks its property."""
    x = np.array([float(point[f"X_{i}"]) for i in range(spec.inputs)])
    y = np.array([[float(point[f"Y_{i}"]) for i in range(spec.outputs)]])
    return any(
        bool((case.box.lower <= x).all() and (x <= case.box.upper).all())
        and float(case.prop.margins(y)[0]) <= 0
        for case in spec.cases
    )


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    asserted=st.lists(formulas, min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_cases_mean_what_the_formula_means(asserted: list[Expression], seed: int) -> None:
    random = np.random.default_rng(seed)
    everything = [*FRAME, *asserted]
    everything = [everything[place] for place in random.permutation(len(everything))]
    sampled = [dict(zip(NAMES, random.choice(VALUES, len(NAMES)), strict=True)) for _ in range(40)]
    text = DECLARATIONS + "".join(f"(assert {text_of(part)}) ; so\n" for part in everything)
    truth = [holds(["and", *everything], point) for point in sampled]
    try:
        spec = parse_vnnlib(text)
    except SpecError as error:
        # Three refusals are answers about the formula, and only these may come.
        if "no input satisfies" in str(error):
            assert not any(truth)
        else:
            assert "has no value left" in str(error) or "nothing is asserted" in str(error)
            assume(False)
        return
    assert [satisfied(spec, point) for point in sampled] == truth
    assert same(parse_vnnlib(write_vnnlib(spec)), spec)
    assert all(not case.prop.strict for case in spec.cases)


def test_the_same_box_is_one_case() -> None:
    either = (
        "(or (and (<= X_0 0) (<= Y_0 1)) (and (<= Y_1 1) (>= X_0 0)) (and (<= Y_2 1) (<= X_0 0)))"
    )
    frame = "".join(f"(assert {text_of(part)})" for part in FRAME)
    spec = parse_vnnlib(f"{DECLARATIONS}{frame}(assert {either})")
    assert [case.box.upper.tolist() for case in spec.cases] == [[0, 2], [2, 2]]
    assert [case.prop.names for case in spec.cases] == [
        ("Y_0 <= 1", "Y_2 <= 1"),
        ("Y_1 <= 1",),
    ]


def test_bounds_take_the_tightest_whatever_their_order() -> None:
    text = (
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= Y_0 0))"
        "(assert (<= X_0 3))(assert (<= X_0 1))(assert (>= X_0 -1))(assert (>= X_0 -3))"
        "(assert (<= X_0 2))(assert (or (and (<= X_0 0.5) (<= X_0 5)) (>= X_0 -9)))"
    )
    spec = parse_vnnlib(text)
    boxes = [(case.box.lower.tolist(), case.box.upper.tolist()) for case in spec.cases]
    assert boxes == [([-1.0], [0.5]), ([-1.0], [1.0])]


@pytest.mark.parametrize(
    ("formula", "name"),
    [
        ("(<= Y_0 Y_2)", "Y_0 <= Y_2"),
        ("(>= Y_0 Y_2)", "Y_2 <= Y_0"),
        ("(> Y_1 183)", "Y_1 >= 183"),
        ("(<= Y_1 -2.5)", "Y_1 <= -2.5"),
        ("(<= (+ (* 2 Y_0) 1) Y_1)", "2 Y_0 <= Y_1 - 1"),
        ("(<= (+ Y_0 Y_1) 0)", "Y_0 + Y_1 <= 0"),
        ("(<= (* 0 Y_1) 3)", "0 <= 3"),
        ("(and (<= Y_0 Y_1) (<= Y_0 Y_2))", "Y_0 <= Y_1 and Y_0 <= Y_2"),
        (
            "(and (<= Y_0 Y_1) (<= Y_0 Y_2) (<= Y_0 4) (<= Y_0 5))",
            "Y_0 <= Y_1 and 3 more",
        ),
    ],
)
def test_clauses_are_named_after_their_rows(formula: str, name: str) -> None:
    frame = "".join(f"(assert {text_of(part)})" for part in FRAME)
    spec = parse_vnnlib(f"{DECLARATIONS}{frame}(assert {formula})")
    assert spec.cases[0].prop.names == (name,)


def test_constants_decide_a_clause() -> None:
    """A clause that is true breaks everywhere, one that is false nowhere."""
    frame = "".join(f"(assert {text_of(part)})" for part in FRAME)
    anywhere = np.random.default_rng(1).normal(size=(50, OUTPUTS)) * 100
    head = f"{DECLARATIONS}{frame}"
    for formula, broken in (("(<= 1 2)", True), ("(<= 2 1)", False), ("(>= Y_0 Y_0)", True)):
        prop = parse_vnnlib(f"{head}(assert {formula})").cases[0].prop
        assert ((prop.margins(anywhere) <= 0) == broken).all()
    half = "(assert (or (and (<= X_0 0)) (and (>= X_0 1) (<= Y_0 0))))"
    first, second = parse_vnnlib(head + half).cases
    assert (first.prop.margins(anywhere) <= 0).all()
    assert ((second.prop.margins(anywhere) <= 0) == (anywhere[:, 0] <= 0)).all()


def test_numbers_round_trip_exactly(rng: np.random.Generator) -> None:
    """Bounds and offsets of every magnitude, denormals and the largest included."""
    words = [float(x) for x in rng.normal(size=50) * 10.0 ** rng.integers(-300, 300, 50)]
    for number_ in (*words, 5e-324, 1.7976931348623157e308, -0.0, 0.1):
        text = (
            "(declare-const X_0 Real)(declare-const Y_0 Real)"
            f"(assert (= X_0 {number_!r}))(assert (<= Y_0 {number_!r}))"
        )
        spec = parse_vnnlib(text)
        assert spec.cases[0].box.lower[0] == spec.cases[0].box.upper[0] == number_
        assert spec.cases[0].prop.offsets[0] == -number_
        assert same(parse_vnnlib(write_vnnlib(spec)), spec)
