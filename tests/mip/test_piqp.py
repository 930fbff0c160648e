"""PIQP against closed forms: a projection, its multipliers, and programs without a point."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from closegap.mip.model import Status
from closegap.mip.piqp import solve_quadratic
from closegap.mip.quadratic import QuadraticModel


def model(row_lower: float, upper: float = np.inf) -> QuadraticModel:
    return QuadraticModel(
        curvature=np.ones(3),
        cost=np.zeros(3),
        matrix=csr_array(np.array([[1.0, 2.0, 2.0]])),
        row_lower=np.array([row_lower]),
        row_upper=np.array([np.inf]),
        lower=np.full(3, -np.inf),
        upper=np.full(3, upper),
    )


def test_the_projection_onto_a_half_space() -> None:
    claim = solve_quadratic(model(9.0))
    assert claim.status is Status.OPTIMAL
    assert claim.point is not None
    assert claim.row_duals is not None
    np.testing.assert_allclose(claim.point, [1.0, 2.0, 2.0], atol=1e-6)
    np.testing.assert_allclose(claim.row_duals, [1.0], atol=1e-6)
    assert claim.objective == pytest.approx(4.5, abs=1e-6)


def test_a_limit_ends_it_and_a_sufficient_one_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = solve_quadratic(model(9.0))
    assert solve_quadratic(model(9.0), 0.0).status is Status.TIME
    monkeypatch.setattr("closegap.mip.piqp._PACE", 3.0)  # seems slow, so that one is timed first
    timed = solve_quadratic(model(9.0), 10.0)
    assert timed.point is not None and free.point is not None
    np.testing.assert_array_equal(timed.point, free.point)


def test_a_program_without_a_point_has_none() -> None:
    claim = solve_quadratic(model(9.0, upper=1.0))
    assert claim.status is not Status.OPTIMAL
    assert claim.point is None
