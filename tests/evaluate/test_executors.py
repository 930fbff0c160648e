"""Executors: every task has one outcome, whatever happens to the process that works on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _scripted_work import BrokenWork, ScriptedWork, task

from closegap.core.errors import ClosegapError, OptionError
from closegap.core.verdict import Reason
from closegap.evaluate import Executor, ProcessExecutor, SerialExecutor, available_cores
from closegap.evaluate.tasks import Failure, Outcome
from closegap.store import Record


@pytest.fixture
def two() -> Iterator[ProcessExecutor]:
    executor = ProcessExecutor(2, grace=0.5)
    yield executor
    executor.kill()


def _alive(pid: int) -> bool:
    """True iff the process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _gone(pids: list[int], seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while any(_alive(p) for p in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(_alive(p) for p in pids)


def _answers(outcomes: list[Outcome]) -> dict[int, Record | Failure]:
    return {outcome.task.index: outcome.answer for outcome in outcomes}


def test_serial_runs_in_order_and_survives_errors() -> None:
    tasks = [
        task(0),
        task(1, "raise broke"),
        task(2, "memory"),
        task(3, "bad not readable"),
        task(4),
    ]
    executor = SerialExecutor()
    outcomes = list(executor.map_unordered(ScriptedWork(), tasks))
    assert [o.task.index for o in outcomes] == [0, 1, 2, 3, 4]
    _check_failures(_answers(outcomes))
    executor.close()
    executor.kill()


def test_processes_survive_errors(two: ProcessExecutor) -> None:
    tasks = [
        task(0),
        task(1, "raise broke"),
        task(2, "memory"),
        task(3, "bad not readable"),
        task(4),
    ]
    _check_failures(_answers(list(two.map_unordered(ScriptedWork(), tasks))))


def _check_failures(answers: dict[int, Record | Failure]) -> None:
    assert isinstance(answers[0], Record) and isinstance(answers[4], Record)
    raised, memory, bad = answers[1], answers[2], answers[3]
    assert isinstance(raised, Failure) and raised.reason is Reason.ENGINE_FAILED
    assert raised.text == "RuntimeError: an engine broke"
    assert "_raise" in raised.trace and not raised.bad_input
    assert isinstance(memory, Failure) and memory.reason is Reason.MEMORY
    assert isinstance(bad, Failure) and bad.bad_input and bad.text == "model.onnx: not readable"


def test_a_worker_that_dies_is_replaced(two: ProcessExecutor) -> None:
    names = ["", "crash", "", "killed", "exit", "", ""]
    outcomes = list(two.map_unordered(ScriptedWork(), [task(i, n) for i, n in enumerate(names)]))
    answers = _answers(outcomes)
    assert len(outcomes) == len(names)
    crash, killed, left = answers[1], answers[3], answers[4]
    assert isinstance(crash, Failure) and "signal SIGSEGV" in crash.text
    assert isinstance(killed, Failure) and killed.reason is Reason.MEMORY
    assert isinstance(left, Failure) and "exit status 3" in left.text
    assert all(isinstance(answers[i], Record) for i in (0, 2, 5, 6))


def test_an_overrun_is_stopped_and_the_others_go_on(two: ProcessExecutor) -> None:
    began = time.monotonic()
    tasks = [task(0, "stuck", timeout=0.5), *(task(i) for i in range(1, 6))]
    outcomes = list(two.map_unordered(ScriptedWork(), tasks))
    assert time.monotonic() - began < 10
    assert outcomes[-1].task.index == 0
    stuck = outcomes[-1].answer
    assert isinstance(stuck, Failure) and stuck.reason is Reason.TIME
    assert 1.0 <= outcomes[-1].seconds < 5.0
    assert all(isinstance(o.answer, Record) for o in outcomes[:-1])


def test_loading_does_not_count_as_overrun(two: ProcessExecutor) -> None:
    (outcome,) = two.map_unordered(ScriptedWork(), [task(0, "slow loading", timeout=0.0)])
    assert isinstance(outcome.answer, Record)
    assert outcome.seconds < 1.0


def test_workers_keep_what_they_loaded_and_share_the_cores(two: ProcessExecutor) -> None:
    outcomes = list(two.map_unordered(ScriptedWork(), (task(i, "sleep 0.02") for i in range(12))))
    details = [o.answer.detail.split() for o in outcomes if isinstance(o.answer, Record)]
    assert len(details) == 12
    assert len({pid for pid, _, _ in details}) == 2
    assert sum(int(count) for count in {d[0]: d[1] for d in details}.values()) == 12
    assert {threads for _, _, threads in details} == {str(two.threads)}


@pytest.mark.parametrize(("asked", "most"), [("", 64), ("1", 1), ("1000", 64), ("soon", 64)])
def test_threads_share_the_cores(monkeypatch: pytest.MonkeyPatch, asked: str, most: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    for workers in (1, 2, 1000):
        share = max(1, available_cores() // workers)
        assert ProcessExecutor(workers).threads == min(share, most)


def test_a_second_round_uses_the_same_workers(two: ProcessExecutor) -> None:
    rounds = [list(two.map_unordered(ScriptedWork(), [task(0), task(1)])) for _ in range(2)]
    pids = [
        {o.answer.detail.split()[0] for o in outcomes if isinstance(o.answer, Record)}
        for outcomes in rounds
    ]
    assert pids[1] <= pids[0]


def test_tasks_are_drawn_when_there_is_room(two: ProcessExecutor) -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[object]:
        for index in range(50):
            drawn.append(index)
            yield task(index)

    outcomes = two.map_unordered(ScriptedWork(), tasks())  # type: ignore[arg-type]
    next(outcomes)
    assert len(drawn) <= 4
    outcomes.close()  # type: ignore[attr-defined]


def test_what_workers_print_is_kept_off_stdout(
    two: ProcessExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    list(two.map_unordered(ScriptedWork(), [task(0, "print")]))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "native noise" in captured.err


def test_a_worker_that_cannot_start_is_an_error(
    two: ProcessExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ClosegapError, match="a worker process could not start"):
        list(two.map_unordered(BrokenWork(), [task(0)]))
    assert "not a number" in capfd.readouterr().err


def test_kill_takes_grandchildren_along(two: ProcessExecutor, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    outcomes = two.map_unordered(
        ScriptedWork(), [task(0, f"spawn {file}", timeout=0.2), task(1, "sleep 30")]
    )
    first = next(outcomes)
    assert isinstance(first.answer, Failure)
    assert _gone([int(text) for text in file.read_text().split()])
    two.kill()
    two.kill()
    assert not two._team


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    script = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from _scripted_work import ScriptedWork, task\n"
        "from closegap.evaluate import ProcessExecutor\n"
        "work = ScriptedWork()\n"
        "list(ProcessExecutor(1).map_unordered(work, [task(0, 'spawn ' + sys.argv[2])]))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(file)])
    until = time.monotonic() + 20
    while not (file.exists() and len(file.read_text().split()) == 2):
        assert time.monotonic() < until and parent.poll() is None
        time.sleep(0.02)
    pids = [int(text) for text in file.read_text().split()]
    assert all(_alive(p) for p in pids)
    parent.kill()
    parent.wait()
    assert _gone(pids)


def test_no_workers_is_misuse() -> None:
    with pytest.raises(OptionError, match="at least 1"):
        ProcessExecutor(0)


def test_both_are_executors(two: ProcessExecutor) -> None:
    assert isinstance(two, Executor)
    assert isinstance(SerialExecutor(), Executor)
    assert os.getpid() not in {w._process.pid for w in two._team}
