"""Warm starts come back row by row, whatever order and company the rows were kept in."""

from __future__ import annotations

import torch

from closegap.bounds.optimise import WarmStarts
from closegap.bounds.records import Parameters

NEURONS, NODE, ACTIVATION = 6, 3, 1


def rows(*sides: tuple[int, int]) -> torch.Tensor:
    """`[1, Q, 6]`: each row a sign at a neuron."""
    found = torch.zeros(1, len(sides), NEURONS)
    for place, (neuron, sign) in enumerate(sides):
        found[0, place, neuron] = sign
    return found


def parameters(*values: float) -> Parameters:
    """Slopes and multipliers that name the row they belong to."""
    marks = torch.tensor(values)[None, :, None]
    return Parameters({ACTIVATION: marks.expand(1, -1, 4)}, {9: -marks})


def marks(found: Parameters | None) -> list[float]:
    assert found is not None
    assert torch.equal(found.slopes[ACTIVATION][..., :1], -found.splits[9])
    return [float(value) for value in found.slopes[ACTIVATION][0, :, 0]]


def test_rows_find_what_they_ended_with_in_any_order() -> None:
    warm = WarmStarts(10**6)
    warm.keep(NODE, rows((0, 1), (4, 1)), parameters(1, 2))
    warm.keep(NODE, rows((0, -1), (4, -1)), parameters(3, 4))
    assert marks(warm.find(NODE, rows((4, -1), (0, 1), (0, -1)))) == [4, 1, 3]


def test_a_later_climb_replaces_an_earlier_one() -> None:
    warm = WarmStarts(10**6)
    warm.keep(NODE, rows((0, 1), (2, 1), (4, 1)), parameters(1, 2, 3))
    warm.keep(NODE, rows((4, 1), (0, 1)), parameters(30, 10))
    assert marks(warm.find(NODE, rows((0, 1), (2, 1), (4, 1)))) == [10, 2, 30]


def test_a_row_that_was_never_kept_starts_afresh() -> None:
    warm = WarmStarts(10**6)
    assert warm.find(NODE, rows((0, 1))) is None
    warm.keep(NODE, rows((0, 1)), parameters(1))
    assert warm.find(NODE, rows((0, 1), (0, -1))) is None
    assert warm.find(NODE + 1, rows((0, 1))) is None


def test_what_does_not_fit_is_not_kept() -> None:
    warm = WarmStarts(100)
    warm.keep(NODE, rows((0, 1)), parameters(1))
    assert 0 < warm.nbytes <= 100
    warm.keep(NODE, rows(*((n, 1) for n in range(NEURONS))), parameters(*range(NEURONS)))
    assert warm.nbytes <= 100
