"""How narrow a closed bracket is, for distances small and large."""

from __future__ import annotations

import math

import pytest

from closegap.core.errors import OptionError
from closegap.core.tolerance import Tolerance


@pytest.mark.parametrize(
    ("upper", "width"),
    [(30.0, 1e-4), (1.0, 1e-4), (0.02, 2e-5), (-0.02, 2e-5), (1e-9, 1e-6), (0.0, 1e-6)],
)
def test_the_default_is_the_lesser_of_a_width_and_a_share(upper: float, width: float) -> None:
    assert Tolerance().width(upper) == pytest.approx(width)
    assert Tolerance().closes(upper - 0.99 * width, upper)
    assert not Tolerance().closes(upper - 1.01 * width, upper)


@pytest.mark.parametrize("tolerance", [Tolerance(), Tolerance(math.inf, 0.5), Tolerance(2.0, 0.5)])
def test_nothing_found_is_never_closed(tolerance: Tolerance) -> None:
    assert 0 < tolerance.width(math.inf) < math.inf
    for lower in (0.0, 5.0, math.inf):
        assert not tolerance.closes(lower, math.inf)
    assert not tolerance.closes(math.nan, 1.0)
    assert not tolerance.closes(0.0, math.nan)


def test_texts() -> None:
    assert Tolerance.parse("1e-5") == Tolerance(1e-5, math.inf)
    assert Tolerance.parse(" 0.1% ") == Tolerance(math.inf, 0.1 / 100)
    assert [str(Tolerance.parse(t)) for t in ("1e-5", "0.1%")] == ["1e-05", "0.1%"]
    assert str(Tolerance()) == "0.0001 and 0.1%"
    assert Tolerance.parse("5").width(1.0) == 5.0
    assert Tolerance.parse("5%").width(40.0) == pytest.approx(2.0)


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-1e-4", "0", "", "%", "few", "nan%", "inf%", "0%", "-1%", "100%", "1/0"]
)
def test_what_is_no_tolerance_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(OptionError, match="is no tolerance") as refused:
        Tolerance.parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("absolute", "relative"),
    [(math.nan, 0.1), (0.1, math.nan), (0.0, 0.1), (-1.0, 0.1), (0.1, 0.0), (0.1, 1.0),
     (math.inf, math.inf)],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(absolute: float, relative: float) -> None:
    with pytest.raises(OptionError, match="tolerance"):
        Tolerance(absolute, relative)
