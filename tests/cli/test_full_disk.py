"""A disk that fills up in the middle of a run: one line, exit code 2, a valid store."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from closegap.store import RunStore


def _command(model: Path, images: Path, store: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "closegap", "evaluate", str(model), "--data", str(images)),
        *("--eps", "0.1", "--engines", "clean", "--store", str(store)),
    ]


def _many(path: Path) -> Path:
    """Enough misclassified images to fill a small disk."""
    images = np.random.default_rng(0).random((120, 1, 8, 8), dtype=np.float32)
    np.savez(path, images=images, labels=np.arange(120) % 10)
    return path


def _full(done: subprocess.CompletedProcess[str], store: Path) -> None:
    assert done.returncode == 2, done.stderr
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("closegap:")]
    assert re.search(rf"error: run store {store}: .*disk (is )?full", line)
    assert "Traceback" not in done.stderr


def test_a_full_disk_stops_the_run_and_keeps_what_is_done(model: Path, tmp_path: Path) -> None:
    images, store = _many(tmp_path / "many.npz"), tmp_path / "run.db"
    limit = 150_000

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        _command(model, images, store),
        preexec_fn=small_files,
        capture_output=True,
        text=True,
        timeout=120,
    )
    _full(done, store)
    with RunStore.open(store) as kept:
        assert 0 < len(list(kept.records())) < 120


def test_a_full_file_system_stops_the_run(model: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=160k none {disk}"
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can mount a small file system")
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    command = " ".join(_command(model, _many(tmp_path / "many.npz"), disk / "run.db"))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f"{mount} && {command}"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    _full(done, disk / "run.db")
