"""The loop over a run: everything is answered once, whatever ends the process in between."""

from __future__ import annotations

import dataclasses
import errno
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from _scripted_run import header, plan
from _scripted_work import task

from closegap.core.errors import InputError, StoreError
from closegap.core.verdict import Reason, Verdict
from closegap.evaluate import (
    Event,
    ProcessExecutor,
    RunStarted,
    SerialExecutor,
    Tally,
    TaskFinished,
    evaluate,
)
from closegap.evaluate.tasks import Outcome, Task, Work
from closegap.store import Record, RunStore

_PROGRAM = Path(__file__).parent / "_scripted_run.py"


def _rows(store: RunStore) -> list[dict[str, object]]:
    """Rows without what two runs may differ in (the scripted work writes its process down)."""
    return [{k: v for k, v in r.row().items() if k != "detail"} for r in store.records()]


def test_every_task_gets_its_record_and_its_event(tmp_path: Path) -> None:
    made = plan(["", "raise broke", ""])
    events: list[Event] = []
    with RunStore.create_or_resume(tmp_path / "run.db", made.header) as store:
        summary = evaluate(made, SerialExecutor(), store, events.append)
        records = list(store.records())
    assert [r.verdict for r in records] == [Verdict.VERIFIED, Verdict.UNKNOWN, Verdict.VERIFIED]
    assert records[1].reason is Reason.ENGINE_FAILED
    assert records[1].detail == "RuntimeError: an engine broke"
    assert isinstance(events[0], RunStarted)
    assert [e.record.index for e in events if isinstance(e, TaskFinished)] == [0, 1, 2]
    assert (summary.tally.done, summary.tally.failed, summary.resumed) == (3, 1, 0)


def test_a_finished_run_evaluates_nothing_again(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    made = plan([""] * 4, str(journal))
    for resumed in (0, 4):
        with RunStore.create_or_resume(tmp_path / "run.db", made.header) as store:
            summary = evaluate(made, SerialExecutor(), store)
        assert summary.resumed == resumed
        assert summary.tally.verified == 4
    assert journal.read_text().split() == ["0", "1", "2", "3"]


def test_a_longer_run_continues_a_shorter_one(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    for names in ([""] * 2, [""] * 5, [""] * 3):
        made = plan(names, str(journal))
        with RunStore.create_or_resume(tmp_path / "run.db", made.header) as store:
            summary = evaluate(made, SerialExecutor(), store)
            assert summary.tally.total == summary.tally.done == len(names)
    assert journal.read_text().split() == ["0", "1", "2", "3", "4"]
    with RunStore.open(tmp_path / "run.db") as store:
        assert store.header().total == 5


def test_killed_in_the_middle_it_ends_as_if_undisturbed(tmp_path: Path) -> None:
    journal, path, count = tmp_path / "journal", tmp_path / "run.db", 40
    command = [sys.executable, str(_PROGRAM), str(path), str(journal), "2", str(count)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert running.stdout is not None
    for _ in range(12):
        running.stdout.readline()
    running.kill()
    running.wait()
    running.stdout.close()
    with RunStore.open(path) as store:
        kept = {r.index for r in store.records()}
    assert 11 <= len(kept) < count
    before = Counter(int(line) for line in journal.read_text().split())
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    again = Counter(int(line) for line in journal.read_text().split()) - before
    assert not kept & set(again)
    assert set(again) | kept == set(range(count))
    undisturbed = plan(["sleep 0.05"] * count)
    with (
        RunStore.open(path) as store,
        RunStore.create_or_resume(tmp_path / "calm.db", header(count)) as calm,
    ):
        evaluate(undisturbed, ProcessExecutor(2), calm)
        calm_rows = [{**r, "name": ""} for r in _rows(calm)]
        assert [{**r, "name": ""} for r in _rows(store)] == calm_rows


def test_an_interruption_kills_the_workers_and_keeps_the_store(tmp_path: Path) -> None:
    made = plan(["", "", "sleep 30", "sleep 30"])
    executor = ProcessExecutor(2)
    began = time.monotonic()

    def interrupt(event: Event) -> None:
        if isinstance(event, TaskFinished) and event.tally.done == 2:
            raise KeyboardInterrupt

    with RunStore.create_or_resume(tmp_path / "run.db", made.header) as store:
        with pytest.raises(KeyboardInterrupt):
            evaluate(made, executor, store, interrupt)
        assert time.monotonic() - began < 15
        assert not executor._team
        assert {r.index for r in store.records()} == {0, 1}


def test_bad_input_that_every_task_needs_ends_the_run(tmp_path: Path) -> None:
    made = plan(["", "bad is gone", ""])
    with RunStore.create_or_resume(tmp_path / "run.db", made.header) as store:
        with pytest.raises(InputError, match=r"model.onnx: is gone"):
            evaluate(made, SerialExecutor(), store)
        assert len(store) == 1


def test_bad_input_of_one_task_among_many_is_its_answer(tmp_path: Path) -> None:
    made = plan(["", "bad is gone", ""], one_model=False)
    with RunStore.create_or_resume(tmp_path / "run.db", made.header) as store:
        summary = evaluate(made, SerialExecutor(), store)
        _, bad, _ = store.records()
    assert bad.detail == "model.onnx: is gone"
    assert (summary.tally.done, summary.tally.failed) == (3, 1)


def test_a_full_disk_ends_the_run_and_a_second_start_completes_it(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    made = plan([""] * 300, str(journal))
    with RunStore.create_or_resume(tmp_path / "run.db", made.header) as store:
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreError, match="the disk is full"):
            evaluate(made, SerialExecutor(), store)
        kept = {r.index for r in store.records()}
    assert 0 < len(kept) < 300
    with RunStore.create_or_resume(tmp_path / "run.db", made.header) as store:
        assert evaluate(made, SerialExecutor(), store).resumed == len(kept)
    runs = Counter(int(line) for line in journal.read_text().split())
    assert all(runs[index] == 1 for index in kept)


class _FailingExecutor:
    """Stands for the operating system running out of something."""

    def __init__(self) -> None:
        self.killed = 0

    def map_unordered(self, work: Work, tasks: Iterable[Task]) -> Iterator[Outcome]:
        raise OSError(errno.EMFILE, "too many open files")
        yield

    def close(self) -> None: ...

    def kill(self) -> None:
        self.killed += 1


def test_whatever_breaks_the_executor_is_killed(tmp_path: Path) -> None:
    executor = _FailingExecutor()
    with (
        RunStore.create_or_resume(tmp_path / "run.db", header(1)) as store,
        pytest.raises(OSError, match="too many"),
    ):
        evaluate(plan([""]), executor, store)
    assert executor.killed == 1


def _records() -> tuple[Record, Record, Record]:
    from _scripted_work import record

    verified = record(task(0))
    change = dataclasses.replace
    misclassified = change(verified, verdict=Verdict.FALSIFIED, engine="clean")
    unknown = change(verified, verdict=Verdict.UNKNOWN, reason=Reason.TIME)
    return verified, misclassified, unknown


def test_tally_brackets_the_share_and_guesses_the_rest() -> None:
    tally = Tally(total=8)
    assert (tally.verified_percent, tally.upper_percent, tally.eta) == (0.0, 100.0, None)
    for number, record in enumerate((*_records(), _records()[0]), start=1):
        tally = tally.after(record, 2.0 * number)
    assert (tally.verified, tally.falsified, tally.unknown, tally.misclassified) == (2, 1, 1, 1)
    assert (tally.verified_percent, tally.upper_percent) == (50.0, 75.0)
    assert tally.eta == pytest.approx(8.0)
    assert tally.failed == 0
