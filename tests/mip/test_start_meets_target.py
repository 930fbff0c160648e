"""A start that is good enough already: the solve ends before it begins, with the start's value."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from closegap.mip.model import Model, SolveOptions, Status
from closegap.mip.registry import available, backend


@pytest.mark.parametrize("name", ["scip", "highs-process", "highs"])
def test_start_meets_the_incumbent_target(name):
    if name not in available():
        pytest.skip(f"{name} is not installed")
    model = Model(
        cost=np.array([1.0, 1.0]),
        matrix=csr_array(np.array([[1.0, 1.0]])),
        row_lower=np.array([0.5]),
        row_upper=np.array([np.inf]),
        lower=np.zeros(2),
        upper=np.ones(2),
        integer=np.array([True, False]),
    )
    options = SolveOptions(start=np.array([1.0, 1.0]), stop_at_incumbent=3.0)
    claim = backend(name).solve(model, options)
    assert claim.status in (Status.INCUMBENT_REACHED, Status.OPTIMAL)
    assert claim.point is not None and claim.objective <= 3.0
    assert claim.bound <= 0.5 + 1e-9
