"""The run store: what goes in comes out, and only the same run continues."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _store_compare import same_record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from closegap.core.errors import StoreError
from closegap.core.verdict import Reason, Verdict
from closegap.store import BracketEvent, Pictures, Record, RunHeader, RunStore

_GOLDEN = Path(__file__).parent / "golden_format_1.sqlite"

_reals = st.floats(allow_nan=False)
_times = st.floats(min_value=0, max_value=1e6)
_words = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
_floats = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=3),
    elements=st.floats(width=32, allow_nan=False),
)
_pictures = st.fixed_dictionaries(
    {
        "clean": _floats,
        "witness": _floats,
        "clean_outputs": _floats,
        "witness_outputs": _floats,
        "witness_outputs_float64": hnp.arrays(np.float64, 3, elements=st.floats(-1, 1)),
    }
)
# Plain values only: run-time type checks of the records draw random numbers of their own, which
# hypothesis does not allow inside a strategy.
_fields = st.fixed_dictionaries(
    {
        "key": _words,
        "index": st.integers(0, 2**40),
        "name": _words,
        "label": st.none() | st.integers(0, 1000),
        "target": _words,
        "verdict": st.sampled_from(Verdict),
        "reason": st.none() | st.sampled_from(Reason),
        "detail": _words,
        "lower": _reals,
        "upper": _reals,
        "engine": _words,
        "seconds": _times,
        "engine_seconds": st.dictionaries(_words, _times, max_size=3),
        "part_seconds": st.dictionaries(_words, _times, max_size=3),
        "history": st.lists(st.tuples(_times, _words, _reals, _reals), max_size=3),
        "counts": st.dictionaries(_words, st.integers(0, 2**40), max_size=3),
        "pictures": st.none() | _pictures,
    }
)


def _record(fields: dict[str, Any]) -> Record:
    pictures = None if fields["pictures"] is None else Pictures(**fields["pictures"])
    history = tuple(BracketEvent(*event) for event in fields["history"])
    return Record(**{**fields, "pictures": pictures, "history": history})


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(drawn=st.lists(_fields, max_size=3, unique_by=lambda fields: fields["key"]))
def test_any_record_comes_back_as_it_went_in(
    drawn: list[dict[str, Any]], header: RunHeader, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("round") / "run.db"
    records = [_record(fields) for fields in drawn]
    with RunStore.create_or_resume(path, header) as store:
        assert all(store.add(r) for r in records)
    with RunStore.open(path) as store:
        back = list(store.records())
        assert store.finished_keys() == {r.key for r in records}
    records.sort(key=lambda r: (r.index, r.key.encode()))
    assert len(back) == len(records)
    assert all(same_record(a, b) for a, b in zip(records, back, strict=True))


def test_header_comes_back_and_is_strict_json(header: RunHeader, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with RunStore.create_or_resume(path, header) as store:
        assert store.header() == header
    text = sqlite3.connect(path).execute("SELECT value FROM meta").fetchone()[0]
    json.loads(text, parse_constant=pytest.fail)


def test_file_is_in_wal_mode(header: RunHeader, tmp_path: Path) -> None:
    RunStore.create_or_resume(tmp_path / "run.db", header).close()
    connection = sqlite3.connect(tmp_path / "run.db")
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_key_is_kept_once(header: RunHeader, falsified: Record, tmp_path: Path) -> None:
    later = dataclasses.replace(falsified, seconds=99.0, history=())
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        assert store.add(falsified)
        assert not store.add(later)
        (kept,) = store.records()
    assert same_record(kept, falsified)


def test_pictures_can_stay_on_disk(header: RunHeader, falsified: Record, tmp_path: Path) -> None:
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        store.add(falsified)
        (light,) = store.records(pictures=False)
    assert same_record(light, dataclasses.replace(falsified, pictures=None))


def test_a_record_with_nan_is_refused_and_nothing_is_kept(
    header: RunHeader, falsified: Record, tmp_path: Path
) -> None:
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        with pytest.raises(ValueError, match="NaN"):
            store.add(dataclasses.replace(falsified, lower=math.nan))
        assert len(store) == 0


def test_the_same_run_continues(
    header: RunHeader, falsified: Record, unknown: Record, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    with RunStore.create_or_resume(path, header) as store:
        store.add(falsified)
    elsewhere = dataclasses.replace(header, command="other", started="later", machine={})
    with RunStore.create_or_resume(path, elsewhere) as store:
        assert store.finished_keys() == {"k0"}
        assert store.header().command == header.command
        store.add(unknown)
        store.set_total(5)
        assert store.header() == dataclasses.replace(header, total=5)
        assert [r.index for r in store.records()] == [0, 1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "instances"}, "another run: kind of run evaluate, not instances"),
        ({"model_digest": "c"}, "another model (net.onnx)"),
        ({"data_digest": "c", "data": "mnist"}, "another run: data digits, not mnist"),
        ({"eps": 0.1}, "another run: radius 0.03137254901960784, not 0.1"),
        ({"norm": "2"}, "another run: norm inf, not 2"),
        ({"timeout": 3.0}, "another run: timeout 20.0, not 3.0"),
        ({"engines": ("pgd",)}, "another run: engines clean,pgd,crown, not pgd"),
        ({"settings": {"restarts": 9, "device": "cpu"}}, "another run: settings restarts 3, not 9"),
        ({"seed": 1}, "another run: seed 0, not 1"),
        ({"eps": None, "seed": 1}, "radius 0.03137254901960784, not None, seed 0, not 1"),
    ],
)
def test_another_run_is_refused_by_name(
    header: RunHeader, tmp_path: Path, change: dict[str, object], text: str
) -> None:
    path = tmp_path / "run.db"
    RunStore.create_or_resume(path, header).close()
    with pytest.raises(StoreError) as caught:
        RunStore.create_or_resume(path, dataclasses.replace(header, **change))
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _refused(path: Path, header: RunHeader) -> str:
    with pytest.raises(StoreError) as caught:
        RunStore.create_or_resume(path, header)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_places_that_cannot_hold_a_store(header: RunHeader, tmp_path: Path) -> None:
    assert "it is a folder" in _refused(tmp_path, header)
    assert "does not exist" in _refused(tmp_path / "no" / "run.db", header)
    assert "choose a folder you may write to" in _refused(Path("/proc/run.db"), header)
    with pytest.raises(StoreError, match="no such file"):
        RunStore.open(tmp_path / "run.db")


def test_files_that_are_no_store(header: RunHeader, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("an ordinary text file, long enough to be mistaken for nothing else " * 30)
    assert "not an SQLite file" in _refused(text, header)
    assert text.read_text().startswith("an ordinary")
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    before = other.read_bytes()
    assert "it is not a run store" in _refused(other, header)
    assert other.read_bytes() == before
    with pytest.raises(StoreError, match="it is not a run store"):
        RunStore.open(other)


def test_a_newer_format_is_refused(header: RunHeader, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    RunStore.create_or_resume(path, header).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    assert "newer closegap (format 7, this one reads up to 2)" in _refused(path, header)


def test_a_damaged_file_is_named(header: RunHeader, falsified: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with RunStore.create_or_resume(path, header) as store:
        for number in range(200):
            store.add(dataclasses.replace(falsified, key=str(number), index=number))
    data = bytearray(path.read_bytes())
    data[4096 : len(data)] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="is damaged"):
        list(RunStore.create_or_resume(path, header).records())


def test_damaged_pictures_and_rows_are_named(
    header: RunHeader, falsified: Record, tmp_path: Path
) -> None:
    with RunStore.create_or_resume(tmp_path / "run.db", header) as store:
        store.add(falsified)
        raw = sqlite3.connect(tmp_path / "run.db", isolation_level=None)
        raw.execute("UPDATE pictures SET npz = x'00010203'")
        with pytest.raises(StoreError, match="pictures of the run store cannot be read"):
            list(store.records())
        raw.execute("UPDATE results SET verdict = 'perhaps'")
        with pytest.raises(StoreError, match="record of the run store cannot be read"):
            list(store.records(pictures=False))
        raw.execute("UPDATE meta SET value = '[]'")
        with pytest.raises(StoreError, match="header cannot be read"):
            store.header()
        raw.close()


def test_a_full_disk_keeps_what_was_there(
    header: RunHeader, falsified: Record, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    with RunStore.create_or_resume(path, header) as store:
        store.add(falsified)
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="the disk is full"):
            for number in range(200):
                store.add(dataclasses.replace(falsified, key=f"x{number}"))
        kept = store.finished_keys()
    with RunStore.create_or_resume(path, header) as store:
        assert store.finished_keys() == kept
        assert all(
            same_record(r, dataclasses.replace(falsified, key=r.key)) for r in store.records()
        )
        assert store.add(dataclasses.replace(falsified, key="afterwards"))


def test_a_file_size_limit_is_one_line_and_keeps_what_was_there(
    header: RunHeader, falsified: Record, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    script = (
        "import dataclasses, pickle, resource, sys\n"
        "from closegap.store import RunStore\n"
        "from closegap.core.errors import StoreError\n"
        "header, record = pickle.load(sys.stdin.buffer)\n"
        "store = RunStore.create_or_resume(sys.argv[1], header)\n"
        "store.add(record)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))\n"
        "try:\n"
        "    for i in range(10**6): store.add(dataclasses.replace(record, key=str(i)))\n"
        "except StoreError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        input=_pickled(header, falsified),
        capture_output=True,
        check=True,
        timeout=60,
    )
    text = done.stdout.decode()
    assert "is the disk full" in text or "the disk is full" in text
    assert len(text.splitlines()) == 1
    with RunStore.open(path) as store:
        assert "k0" in store.finished_keys()
        assert len(list(store.records())) == len(store)


def _pickled(*values: object) -> bytes:
    return pickle.dumps(values)


def test_several_writers_lose_nothing(header: RunHeader, falsified: Record, tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    RunStore.create_or_resume(path, header).close()
    added: list[int] = []

    def write(writer: int) -> None:
        with RunStore.create_or_resume(path, header) as store:
            fresh = [
                store.add(dataclasses.replace(falsified, key=str(k % 40), index=k))
                for k in range(writer * 20, writer * 20 + 20)
            ]
        added.append(sum(fresh))

    threads = [threading.Thread(target=write, args=(w,)) for w in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with RunStore.open(path) as store:
        assert store.finished_keys() == {str(k) for k in range(40)}
        assert sum(added) == len(store) == 40
        assert all(len(r.history) == 2 for r in store.records())


def test_a_killed_writer_leaves_whole_records(
    header: RunHeader, falsified: Record, tmp_path: Path
) -> None:
    path = tmp_path / "run.db"
    script = (
        "import dataclasses, pickle, sys\n"
        "from closegap.store import RunStore\n"
        "header, record = pickle.load(sys.stdin.buffer)\n"
        "store = RunStore.create_or_resume(sys.argv[1], header)\n"
        "for i in range(10**6):\n"
        "    store.add(dataclasses.replace(record, key=str(i), index=i)); print(i, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(_pickled(header, falsified))
    process.stdin.close()
    while int(process.stdout.readline()) < 25:
        pass
    os.kill(process.pid, signal.SIGKILL)
    told = [int(line) for line in process.stdout.read().split()]
    process.stdout.close()
    process.wait()
    with RunStore.create_or_resume(path, header) as store:
        records = list(store.records())
    assert [r.index for r in records] == list(range(len(records)))
    assert len(records) >= max([25, *told]) + 1
    assert all(len(r.history) == 2 and r.pictures is not None for r in records)


def test_a_store_of_the_first_format_is_read(tmp_path: Path) -> None:
    copy = tmp_path / "old.sqlite"
    copy.write_bytes(_GOLDEN.read_bytes())
    with RunStore.open(copy) as store:
        header = store.header()
        first, second = store.records()
    assert (header.kind, header.eps, header.engines) == (
        "evaluate",
        8 / 255,
        ("clean", "pgd", "crown"),
    )
    assert header.class_names == ("zero", "one")
    assert (first.verdict, first.lower, first.upper) == (Verdict.FALSIFIED, -math.inf, -0.25)
    assert list(first.engine_seconds) == ["pgd", "clean"]
    assert first.history[1] == BracketEvent(0.125, "pgd", -math.inf, -0.25)
    assert first.pictures is not None and first.pictures.clean.shape == (1, 8, 8)
    assert first.pictures.witness_outputs_float64.dtype == np.float64
    assert (second.verdict, second.reason) == (Verdict.UNKNOWN, Reason.TIME)
    assert second.pictures is None
    with RunStore.create_or_resume(copy, header) as store:
        assert len(store) == 2


def test_rows_are_strict_json(falsified: Record, unknown: Record) -> None:
    for record in (falsified, unknown):
        row = json.loads(json.dumps(record.row(), allow_nan=False))
        assert {
            "verdict",
            "lower",
            "upper",
            "seconds",
            "engine",
            "index",
            "label",
            "target",
        } <= set(row)
