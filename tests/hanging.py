"""A solver that hangs, ready to be asked: its process runs before the clock of a test does."""

from __future__ import annotations

from pathlib import Path

import pytest

from closegap.mip import registry
from closegap.mip.killable import KillableBackend
from closegap.mip.model import Claim, Model, SolveOptions
from closegap.testing.mip_probes import worker_processes
from mip.failing_solvers import Deaf


class HangingSolver:
    """Registered under a name of its own, for the registry keeps one backend a name.

    Attributes:
        claims: of every solve so far.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        # Where its process finds it.
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
        self._before = set(worker_processes())
        self._backend = KillableBackend(Deaf(), name)
        self.claims: list[Claim] = []
        ask = self._backend.solve

        def solve(model: Model, options: SolveOptions) -> Claim:
            self.claims.append(ask(model, options))
            return self.claims[-1]

        monkeypatch.setattr(self._backend, "solve", solve)
        monkeypatch.setitem(registry.BACKENDS, name, lambda: self._backend)
        self._backend.warm_up()
        assert self._backend._crew.idle[0]._inbox.poll(60.0)

    @property
    def killed(self) -> bool:
        """Whether a solve hung, and was ended by ending its process."""
        return any("killed" in claim.detail for claim in self.claims)

    def left(self) -> set[int]:
        """Processes that are still there once all that waited for more work were dismissed."""
        for solver in (self._backend, registry.backend("scip"), registry.backend("highs-process")):
            assert isinstance(solver, KillableBackend)
            solver.close()
        return set(worker_processes()) - self._before
