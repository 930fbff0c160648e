"""Properties against the definition, clause by clause and row by row."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from closegap.core.errors import SpecError
from closegap.specs.property import Property, robustness_property


def random_property(rng: np.random.Generator, sizes: tuple[int, ...], outputs: int) -> Property:
    """Clauses of the given sizes, their rows interleaved."""
    clause = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = rng.integers(-2, 3, (len(clause), outputs)).astype(float)
    offsets = rng.integers(-2, 3, len(clause)).astype(float)
    return Property(rows, offsets, clause, False, tuple(f"c{k}" for k in range(len(sizes))))


@pytest.mark.parametrize("sizes", [(1,), (1, 1, 1), (3,), (2, 1, 4)])
def test_margins_follow_the_definition(rng: np.random.Generator, sizes: tuple[int, ...]) -> None:
    prop = random_property(rng, sizes, 3)
    outputs = rng.integers(-3, 4, (200, 3)).astype(float)
    margins = prop.margins(outputs)
    row_margins = prop.row_margins(outputs)
    clause_margins = prop.clause_values(row_margins)
    assert clause_margins.shape == (200, len(sizes))
    alone = [prop.single(clause).margins(outputs) for clause in range(len(sizes))]
    assert np.array_equal(np.stack(alone, axis=1), clause_margins)
    broken = 0
    for y, margin, by_row, by_clause in zip(
        outputs, margins, row_margins, clause_margins, strict=True
    ):
        wanted_rows = [
            sum(c * v for c, v in zip(row, y, strict=True)) + offset
            for row, offset in zip(prop.rows, prop.offsets, strict=True)
        ]
        assert by_row.tolist() == wanted_rows
        wanted = [
            max(m for m, k in zip(wanted_rows, prop.clause, strict=True) if k == clause)
            for clause in range(len(sizes))
        ]
        assert by_clause.tolist() == wanted
        assert margin == min(wanted)
        formula = any(
            all(m <= 0 for m, k in zip(wanted_rows, prop.clause, strict=True) if k == clause)
            for clause in range(len(sizes))
        )
        assert prop.broken_by(float(margin)) == formula
        broken += formula
    assert 0 < broken < 200


_WHOLE = """
import numpy as np
from closegap.specs.property import Property
p = Property(np.array([[1, -1]]), np.array([0]), np.zeros(1, np.int32), False, ("only",))
print(p.rows.dtype, p.offsets.dtype, p.clause.dtype)
"""


def test_rows_of_whole_numbers_are_floats_to_everyone() -> None:
    """In a process of its own, for here a check of types would refuse them first."""
    done = subprocess.run(
        [sys.executable, "-c", _WHOLE], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == ["float64", "float64", "int64"]


def test_values_of_many_clauses_need_no_square_of_them(rng: np.random.Generator) -> None:
    prop = random_property(rng, (1,) * 1500, 3)
    rows = prop.row_margins(rng.normal(size=(100, 3)))
    tracemalloc.start()
    values = prop.clause_values(rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert np.array_equal(values[:, prop.clause], rows)
    assert peak < 5 * rows.nbytes


def test_a_row_that_is_nan_is_its_clauses_alone(rng: np.random.Generator) -> None:
    prop = random_property(rng, (2, 1, 2), 3)
    rows = np.where(prop.clause == 2, np.nan, 1.0)[None]
    assert np.array_equal(prop.clause_values(rows), [[1, 1, np.nan]], equal_nan=True)


def test_membership(rng: np.random.Generator) -> None:
    prop = random_property(rng, (2, 1, 4), 3)
    assert prop.membership.shape == (3, 7)
    for clause, members in enumerate(prop.membership):
        assert np.flatnonzero(members).tolist() == np.flatnonzero(prop.clause == clause).tolist()


def test_lower_bounds_of_rows_give_lower_bounds_of_clauses(rng: np.random.Generator) -> None:
    prop = random_property(rng, (2, 3), 3)
    outputs = rng.normal(size=(100, 3))
    exact = prop.row_margins(outputs)
    loosened = exact - rng.random(exact.shape)
    assert (prop.clause_values(loosened) <= prop.clause_values(exact)).all()


def test_strictness_decides_ties() -> None:
    strict = robustness_property(0, 2)
    closed = Property(strict.rows, strict.offsets, strict.clause, False, strict.names)
    tie = float(strict.margins(np.array([[0.1, 0.1]], np.float32))[0])
    assert tie == 0
    assert not strict.broken_by(tie) and closed.broken_by(tie)
    for prop in (strict, closed):
        assert prop.broken_by(-1e-30) and not prop.broken_by(1e-30)
        assert not prop.broken_by(float("nan"))


class TestRobustness:
    def test_margin_is_the_least_lead_over_another_class(self, rng: np.random.Generator) -> None:
        outputs = rng.normal(size=(50, 5)).astype(np.float32)
        prop = robustness_property(2, 5)
        others = np.delete(outputs.astype(np.float64), 2, axis=1)
        wanted = (outputs[:, 2:3].astype(np.float64) - others).min(axis=1)
        np.testing.assert_array_equal(prop.margins(outputs), wanted)
        assert prop.names == ("0", "1", "3", "4")
        assert prop.label == 2

    def test_one_target(self) -> None:
        prop = robustness_property(2, 5, target=4)
        assert prop.rows.tolist() == [[0, 0, 1, 0, -1]]

    @pytest.mark.parametrize(("label", "target"), [(-1, None), (5, None), (2, 2), (2, 5), (2, -1)])
    def test_refused(self, label: int, target: int | None) -> None:
        with pytest.raises(SpecError):
            robustness_property(label, 5, target)


@pytest.mark.parametrize(
    ("row", "offset", "only"),
    [
        ([1, -1, 0], 0, True),
        ([-2.5, 0, 2.5], 0, True),
        ([1, -1, 0], 1, False),
        ([1, 0, 0], 0, False),
        ([1, 1, 0], 0, False),
        ([2, -1, 0], 0, False),
        ([1, -0.5, -0.5], 0, False),
        ([0, 0, 0], 0, False),
    ],
)
def test_comparing_outputs_only(row: list[float], offset: float, only: bool) -> None:
    """True iff any increasing function of the outputs leaves the answer as it is."""
    rows = np.array([[1.0, 0, -1], row])
    prop = Property(rows, np.array([0.0, offset]), np.array([0, 0]), False, ("c",))
    assert prop.compares_outputs_only is only


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.zeros(3)}, "one length"),
        ({"clause": np.zeros(3, np.int64)}, "one length"),
        ({"rows": np.zeros(2)}, "one length"),
        ({"clause": np.array([0, 2])}, "numbered 0, 1"),
        ({"names": ("a",)}, "numbered 0, 1"),
        ({"names": ("a", "b", "c")}, "numbered 0, 1"),
        ({"rows": np.array([[np.nan], [0]])}, "finite"),
        ({"offsets": np.array([np.inf, 0])}, "finite"),
        (
            {
                "rows": np.zeros((0, 1)),
                "offsets": np.zeros(0),
                "clause": np.zeros(0, np.int64),
                "names": ("a",),
            },
            "numbered 0, 1",
        ),
    ],
)
def test_refused(change: dict[str, object], message: str) -> None:
    good: dict[str, object] = {
        "rows": np.ones((2, 1)),
        "offsets": np.zeros(2),
        "clause": np.array([0, 1]),
        "strict": False,
        "names": ("a", "b"),
    }
    with pytest.raises(SpecError, match=message):
        Property(**(good | change))  # type: ignore[arg-type]
