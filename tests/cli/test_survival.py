"""Limits at zero and solvers that fall over: an answer with its reason, never a crash."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from closegap.core.budget import Budget
from closegap.core.verdict import Reason, Verdict
from closegap.mip.killable import KillableBackend
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query, robustness
from closegap.strategy.solve import solve
from closegap.testing import networks
from conftest import Said

RADIUS = 0.2
_SOLVERS = Path(__file__).parents[1] / "mip"


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (("--nodes", "0", "--engines", "crown,input-split,bab"), ("sat", "unknown")),
        (("--timeout", "0", "--optimum"), ("timeout",)),
    ],
)
def test_nothing_may_be_spent(
    call: Callable[..., Said],
    difference: Path,
    spec: Callable[..., Path],
    options: tuple[str, ...],
    answer: tuple[str, ...],
) -> None:
    said = call("verify", difference, spec(), *options)
    assert said.code == 0
    assert said.out.strip() in answer


@pytest.fixture
def tight() -> Query:
    """A query that holds, by more than linear bounds show."""
    rng = np.random.default_rng(4)
    network = networks.random_mlp(rng, [3, 12, 12, 3])
    image = rng.uniform(0.3, 0.7, 3).astype(np.float32)
    outputs = TorchNetwork(network, dtype=torch.float64)(torch.as_tensor(image[None]).double())
    return robustness(network, image, int(outputs.argmax()), RADIUS)


@pytest.mark.parametrize("engine", ["bab", "input-split"])
def test_no_nodes_are_a_reason(tight: Query, engine: str) -> None:
    result = solve(tight, engines=(engine,), budget=Budget.of_seconds(30, nodes=0))
    assert (result.verdict, result.reason) == (Verdict.UNKNOWN, Reason.NODES)
    assert "--nodes" in result.detail


@pytest.mark.parametrize(("name", "seconds"), [("Crashing", 20.0), ("Deaf", 2.0)])
def test_a_solver_that_crashes_or_overruns_is_a_note(
    tight: Query, name: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(_SOLVERS))
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(_SOLVERS), known]))
    import failing_solvers

    backend = KillableBackend(getattr(failing_solvers, name)())
    monkeypatch.setattr(
        "closegap.verify.mip.mixed_integer_solvers", lambda preference: ((backend,), "")
    )
    began = time.monotonic()
    result = solve(tight, timeout=seconds, engines=("mip",))
    backend.close()
    assert time.monotonic() - began < seconds + 15
    assert result.verdict is Verdict.UNKNOWN
    assert not result.bracket.lower > 0
    if name == "Crashing":
        assert "mip" in result.detail
    assert sys.modules.pop("failing_solvers") is not None
