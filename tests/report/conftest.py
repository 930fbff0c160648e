"""Real images for the report's tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from report_runs import linear_run
from sklearn.datasets import load_digits

from closegap.store.records import Record, RunHeader


@pytest.fixture(scope="session")
def digits_run() -> tuple[RunHeader, tuple[Record, ...]]:
    """Sixty of scikit-learn's digits on a linear network: every kind of verdict."""
    digits = load_digits()
    header, records = linear_run(
        (digits.images / 16.0)[:, None],
        digits.target.astype(np.int64),
        0.05,
        np.random.default_rng(5),
    )
    return replace(header, total=60), records[:60]
