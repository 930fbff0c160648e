"""Numbers as people read them: nothing is overstated by rounding."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import make_header

from closegap.report.wording import (
    class_name,
    count,
    number,
    percent,
    percent_down,
    percent_up,
    plain,
    radius,
    seconds,
    signed,
)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rounded_ends_hold_the_exact_share(pair: tuple[int, int]) -> None:
    part, whole = pair
    exact = Fraction(100 * part, whole)
    low, high = (Fraction(text[:-2]) for text in (percent_down(*pair), percent_up(*pair)))
    assert low <= exact <= high
    assert high - low <= Fraction(1, 10)


def test_percent() -> None:
    shares = [percent(2, 3), percent_down(2, 3), percent_up(1, 3), percent_up(3, 3)]
    assert [text.split() for text in shares] == [
        [n, "%"] for n in ("66.7", "66.6", "33.4", "100.0")
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "–"),
        (-0.25, "−0.25"),
        (1234567.0, "1.235e+06"),
        (12345.6, "12346"),
        (1e-05, "1e−05"),
        (0.0, "0"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_signed() -> None:
    assert [signed(0.5), signed(-0.5), signed(0.0)] == ["+0.5", "−0.5", "0"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.0123, "12.3 ms"),
        (0.9999, "1 s"),
        (1.234, "1.23 s"),
        (99.96, "1 min 40 s"),
        (3725.0, "1 h 02 min"),
        (math.inf, "∞"),
    ],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value).replace("\N{NO-BREAK SPACE}", " ") == text


def test_count() -> None:
    assert count(1, "image").split() == ["1", "image"]
    assert count(12_345, "property", "properties").split() == ["12", "345", "properties"]


def test_names() -> None:
    header = make_header(class_names=("cat", "1"))
    assert [class_name(c, header) for c in (0, 1, "0", 5, "y0 <= 1", None, "")] == [
        "0 cat", "1", "0 cat", "5", "y0 <= 1", "–", "–",
    ]  # fmt: skip
    assert radius(make_header(eps=0.3, norm="2")) == "ℓ2, ε = 0.3"
    assert radius(make_header(eps=None, norm="")) == ""


def test_plain_keeps_text_and_drops_what_no_page_can_hold() -> None:
    assert plain("a\tb\nß猫") == "a\tb\nß猫"
    assert plain("a\x00\x1b\x85\ud800") == "a����"
