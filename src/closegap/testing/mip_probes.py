"""What the LP/MIP conformance suite looks at while a backend works."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from closegap.mip.model import Array, Claim, LinearSession, Model

__all__ = [
    "Stream",
    "check_point",
    "good_point",
    "session_changes",
    "signal_workers",
    "worker_processes",
]

#: Rows with numbers of order 100 are satisfied to this.
_FEASIBLE = 1e-6
#: What the command line of a worker process holds.
_WORKER = b"closegap.mip._worker"


class Stream:
    """What a solve passed on: objectives, bounds, how feasible the points were, in which thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.objectives: list[float] = []
        self.violations: list[float] = []
        self.bounds: list[float] = []
        self.threads: set[int] = set()

    def on_incumbent(self, point: Array, objective: float) -> None:
        """For `SolveOptions.on_incumbent`."""
        assert objective == pytest.approx(self._model.objective(point))
        self.objectives.append(objective)
        self.violations.append(self._model.violation(point))
        self.threads.add(threading.get_ident())


def check_point(model: Model, claim: Claim) -> None:
    """The claim's point is feasible and has the claimed objective."""
    assert claim.point is not None
    assert claim.point.shape == (model.columns,)
    assert model.violation(claim.point) <= _FEASIBLE
    assert claim.objective == pytest.approx(model.objective(claim.point), rel=_FEASIBLE)
    assert claim.bound <= claim.objective + _FEASIBLE


def good_point(model: Model, rng: np.random.Generator, tries: int = 20_000) -> tuple[Array, float]:
    """The best of many random points of a `hard_integer` program, and its objective."""
    items = int(model.integer.sum())
    weights = model.matrix.toarray()[:, :items]
    choices = rng.integers(0, 2, size=(tries, items)).astype(np.float64)
    missing = model.row_lower - choices @ weights.T
    best = int(np.abs(missing).sum(axis=1).argmin())
    slack = missing[best]
    point = np.concatenate([choices[best], np.maximum(slack, 0.0), np.maximum(-slack, 0.0)])
    return point, model.objective(point)


def session_changes(rng: np.random.Generator) -> list[Callable[[LinearSession], None]]:
    """Changes of a session that keep its program feasible and bounded."""

    def costs(session: LinearSession) -> None:
        session.set_costs(rng.normal(size=session.model().columns), constant=1.5)

    def columns(session: LinearSession) -> None:
        model = session.model()
        some = np.array([1, 4, 7])
        session.set_column_bounds(some, model.lower[some] - 0.1, model.upper[some] + 0.2)

    def sides(session: LinearSession) -> None:
        model = session.model()
        some = np.array([0, 3])
        session.set_row_bounds(some, model.row_lower[some] - 0.1, model.row_upper[some] + 0.1)

    def rows(session: LinearSession) -> None:
        model = session.model()
        claim_point = (model.lower + model.upper) / 2
        extra = rng.normal(size=(2, model.columns))
        reach = np.abs(extra) @ (model.upper - model.lower) / 4
        inside = extra @ claim_point
        session.add_rows(csr_array(extra), inside - reach, inside + reach)

    return [costs, columns, sides, rows, costs]


def worker_processes() -> list[int]:
    """Numbers of this process's solver workers, started by any of its threads (Linux)."""
    tasks = Path("/proc/self/task").glob("*/children")
    children = [number for task in tasks for number in task.read_text().split()]
    return [int(n) for n in children if _WORKER in Path(f"/proc/{n}/cmdline").read_bytes()]


def signal_workers(what: signal.Signals) -> None:
    """Send a signal to every solver worker of this process."""
    for number in worker_processes():
        os.kill(number, what)
