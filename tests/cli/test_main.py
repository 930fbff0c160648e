"""The command line as a whole: exit codes, help, what is loaded, how a run is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest

import closegap
from closegap.cli.main import cli
from closegap.store import Record, RunStore
from conftest import Said

Call = Callable[..., Said]

_DIGITS = Path(closegap.__file__).parent / "demo" / "digits_mlp.onnx"
_CASCADE = "clean,crown,alpha-crown"


def test_help_and_version(call: Call) -> None:
    said = call("--help")
    assert said.code == 0
    assert all(name in said.out for name in ("evaluate", "verify", "attack", "report", "demo"))
    assert call("--version").out == f"closegap, version {closegap.__version__}\n"


def test_every_command_explains_itself() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None and command.help
        assert all(p.help for p in command.params if isinstance(p, click.Option)), name


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from closegap.cli.main import run; run(['--help'])\n"
        "print([m for m in ('torch', 'numpy', 'onnx', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")


def test_an_internal_error_is_one_line_and_code_one(
    call: Call, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    def broken(path: object) -> None:
        raise RuntimeError("the flux is off\nand more")

    monkeypatch.setattr("closegap.frontend.load", broken)
    said = call("evaluate", model, "--data", "digits", "--eps", "0", "--engines", "clean")
    assert said.code == 1
    assert said.err == (
        "closegap: internal error: RuntimeError: the flux is off; "
        "set CLOSEGAP_DEBUG=1 to see where\n"
    )
    monkeypatch.setenv("CLOSEGAP_DEBUG", "1")
    said = call("evaluate", model, "--data", "digits", "--eps", "0", "--engines", "clean")
    assert said.code == 1
    assert "Traceback" in said.err and "in broken" in said.err


def test_a_reader_that_leaves_is_no_crash(model: Path, images: Path) -> None:
    command = _command(model, "--data", str(images), "--eps", "0", "--json")
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None and running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    err = running.stderr.read()
    running.stderr.close()
    assert running.wait() in (0, 1)
    assert "Traceback" not in err and "BrokenPipe" not in err


def _command(model: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "closegap", "evaluate", str(model),
            "--engines", _CASCADE, *options]  # fmt: skip


def _digits(store: Path) -> list[str]:
    return _command(
        *(_DIGITS, "--data", "digits", "--eps", "0.08", "--timeout", "20", "--workers", "2"),
        *("--limit", "40", "--store", str(store), "--json"),
    )


def _rows(records: list[Record]) -> list[dict[str, object]]:
    """Rows without what no two runs share."""
    timing = ("seconds", "engine_seconds")
    return [{k: v for k, v in r.row().items() if k not in timing} for r in records]


def _kept(store: Path) -> list[Record]:
    with RunStore.open(store) as opened:
        return list(opened.records())


def _children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(int(status.parent.name))
    return found


def _started(command: list[str], rows: int) -> tuple[subprocess.Popen[str], list[int]]:
    """A run that has printed so many rows, and the processes it started."""
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for _ in range(rows):
        assert running.stdout.readline()
    return running, _children(running.pid)


def _gone(pids: list[int]) -> bool:
    until = time.monotonic() + 5
    while any(Path(f"/proc/{p}").exists() for p in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(Path(f"/proc/{p}").exists() for p in pids)


def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    store, calm = tmp_path / "run.db", tmp_path / "calm.db"
    running, workers = _started(_digits(store), rows=10)
    running.kill()
    running.communicate()
    assert len(workers) == 2 and _gone(workers)
    before = _kept(store)
    assert 10 <= len(before) < 40
    for path in (store, calm):
        done = subprocess.run(_digits(path), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    after = {r.index: r for r in _kept(store)}
    assert len(after) == 40
    assert all(after[r.index].seconds == r.seconds for r in before)
    assert _rows(list(after.values())) == _rows(_kept(calm))
    assert {r["verdict"] for r in _rows(_kept(calm))} >= {"verified", "unknown"}


def test_ctrl_c_twice_stops_at_once_with_a_valid_store(tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    running, workers = _started(_digits(store), rows=5)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 130
    assert time.monotonic() - began < 5
    assert _gone(workers)
    kept = _kept(store)
    assert 5 <= len(kept) < 40
    (line,) = [text for text in err.splitlines() if text.startswith("closegap:")]
    assert line == (
        f"closegap: interrupted; {len(kept)} of 40 are in {store}; the same command continues"
    )
    assert "Traceback" not in err


def test_a_terminal_sees_a_bar_and_stdout_stays_clean(tmp_path: Path, model: Path) -> None:
    images = tmp_path / "two.npz"
    np.savez(images, images=np.zeros((2, 1, 8, 8), np.float32), labels=np.arange(2))
    ours, theirs = os.openpty()
    done = subprocess.run(
        _command(model, "--data", str(images), "--eps", "0", "--json"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=60,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    os.close(ours)
    assert done.returncode == 0
    assert b"2/2" in shown and b"\x1b[" in shown
    assert [json.loads(line)["index"] for line in done.stdout.splitlines()] == [0, 1]


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # Linux says so when the other end of a terminal is closed
        return b""
