"""Worker processes: shared by threads, renewed after a fork, and gone when their owner is."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from failing_solvers import Crashing, Deaf

from closegap.core.errors import OptionError
from closegap.mip.killable import KillableBackend
from closegap.mip.model import MipBackend, Model, SolveOptions, Status
from closegap.mip.scip import ScipInProcess
from closegap.testing.mip_models import hard_integer, random_binary
from closegap.testing.mip_probes import worker_processes

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")


@pytest.fixture
def make() -> Iterator[Callable[..., KillableBackend]]:
    made: list[KillableBackend] = []

    def build(inner: MipBackend) -> KillableBackend:
        made.append(KillableBackend(inner))
        return made[-1]

    yield build
    for backend in made:
        backend.close()


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets workers import the solvers of this folder."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def ended(number: int) -> bool:
    """True iff the process is gone, or dead and only waits to be collected."""
    status = Path(f"/proc/{number}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.usefixtures("importable")
def test_a_deaf_solver_is_killed_and_its_findings_kept(
    make: Callable[..., KillableBackend],
    rng: np.random.Generator,
    capfd: pytest.CaptureFixture[str],
) -> None:
    deaf = make(Deaf())
    model = random_binary(rng, rows=2, binaries=2, reals=2)
    for status in (Status.TIME, Status.INTERRUPTED):
        deaf.warm_up()
        assert deaf._crew.idle[0]._inbox.poll(60.0)  # its process listens, however long that took
        begun = time.monotonic()
        options = {
            Status.TIME: SolveOptions(time_limit=1.5),
            Status.INTERRUPTED: SolveOptions(interrupted=_after(1.5)),
        }[status]
        claim = deaf.solve(model, options)
        assert time.monotonic() - begun < 2.0
        assert claim.status is status
        assert claim.point is not None
        assert (claim.point == np.arange(4)).all()
        assert (claim.objective, claim.bound) == (5.0, -7.0)
        assert "killed" in claim.detail
    assert capfd.readouterr() == ("", "")  # what it printed is nobody's


@pytest.mark.usefixtures("importable")
def test_a_crash_is_a_failed_claim(
    make: Callable[..., KillableBackend], rng: np.random.Generator
) -> None:
    claim = make(Crashing()).solve(hard_integer(rng), SolveOptions(time_limit=10.0))
    assert claim.status is Status.FAILED
    assert "signal 6" in claim.detail


def test_an_inner_class_that_cannot_be_imported_fails(
    make: Callable[..., KillableBackend], rng: np.random.Generator
) -> None:
    claim = make(Deaf()).solve(hard_integer(rng), SolveOptions(time_limit=10.0))
    assert claim.status is Status.FAILED
    assert "Error" in claim.detail


def test_workers_are_reused_and_closed(
    make: Callable[..., KillableBackend], rng: np.random.Generator
) -> None:
    before = set(worker_processes())
    scip = make(ScipInProcess())
    for _ in range(3):
        assert scip.solve(_small(rng), SolveOptions(time_limit=20.0)).status is Status.OPTIMAL
    (worker,) = set(worker_processes()) - before
    scip.close()
    assert ended(worker)
    assert set(worker_processes()) <= before
    assert scip.solve(_small(rng), SolveOptions(time_limit=20.0)).status is Status.OPTIMAL


def test_a_dropped_backend_leaves_no_process(rng: np.random.Generator) -> None:
    before = set(worker_processes())
    scip = KillableBackend(ScipInProcess())
    scip.solve(_small(rng), SolveOptions(time_limit=20.0))
    assert set(worker_processes()) - before
    del scip
    assert set(worker_processes()) <= before


def test_threads_solve_side_by_side(
    make: Callable[..., KillableBackend], rng: np.random.Generator
) -> None:
    scip = make(ScipInProcess())
    models = [_small(rng) for _ in range(3)]
    wanted = [scip.solve(model, SolveOptions(time_limit=20.0)).objective for model in models]
    found: dict[int, float] = {}

    def work(index: int) -> None:
        found[index] = scip.solve(models[index], SolveOptions(time_limit=20.0)).objective

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[index] for index in range(3)] == pytest.approx(wanted)


def test_pickles_without_its_workers(rng: np.random.Generator) -> None:
    scip = KillableBackend(ScipInProcess(), "mine")
    copy = pickle.loads(pickle.dumps(scip))
    assert copy.name == "mine"
    assert copy.capabilities == scip.capabilities


def test_holds_no_sessions(rng: np.random.Generator) -> None:
    with pytest.raises(OptionError, match="another process"):
        KillableBackend(ScipInProcess()).session(_small(rng))


_PARENT = """
import os, sys, threading, time
import numpy as np
from closegap.mip.registry import backend
from closegap.mip.model import SolveOptions
from closegap.testing.mip_models import hard_integer
scip = backend("scip")
scip.warm_up()
if {fork}:
    # Another process that holds the worker's pipes open for longer than we live.
    if os.fork() == 0:
        time.sleep(8)
        os._exit(0)
say = lambda point, objective: print(objective, flush=True)
scip.solve(hard_integer(np.random.default_rng(0)), SolveOptions(on_incumbent=say))
"""


@pytest.mark.parametrize("fork", [False, True])
def test_workers_end_when_their_parent_is_killed(fork: bool) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT.format(fork=fork)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline()  # it solves
        tasks = Path(f"/proc/{parent.pid}/task").glob("*/children")
        numbers = [int(n) for task in tasks for n in task.read_text().split()]
        workers = [n for n in numbers if b"_worker" in Path(f"/proc/{n}/cmdline").read_bytes()]
        assert len(workers) == 1
        parent.send_signal(signal.SIGKILL)
    assert wait_until(lambda: ended(workers[0]))
    for number in numbers:
        if not ended(number):
            os.kill(number, signal.SIGKILL)


def test_a_forked_child_has_workers_of_its_own(rng: np.random.Generator) -> None:
    code = """
import os, sys
import numpy as np
from closegap.mip.registry import backend
from closegap.mip.model import SolveOptions
from closegap.testing.mip_models import random_binary
model = random_binary(np.random.default_rng(0), rows=3, binaries=4, reals=4)
scip = backend("scip")
first = scip.solve(model, SolveOptions(time_limit=20.0))
child = os.fork()
second = scip.solve(model, SolveOptions(time_limit=20.0))
same = abs(first.objective - second.objective) < 1e-9
if child == 0:
    scip.close()
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0 and same
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _small(rng: np.random.Generator) -> Model:
    return random_binary(rng, rows=4, binaries=5, reals=5)


def _after(seconds: float) -> Callable[[], bool]:
    begun = time.monotonic()
    return lambda: time.monotonic() - begun > seconds
