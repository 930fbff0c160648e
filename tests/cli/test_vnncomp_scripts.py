"""The competition's three scripts, run as the organisers run them, in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "vnncomp"


def script(name: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPTS / f"{name}.sh"), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "CLOSEGAP_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("high", "word"), [(0.2, "sat"), (-0.0, "error")])
def test_an_instance_from_beginning_to_end(
    difference: Path, spec: Callable[..., Path], tmp_path: Path, high: float, word: str
) -> None:
    wanted = 0 if word != "error" else 2
    prop, results = spec(high=high), tmp_path / "results.txt"
    if word == "error":
        prop.write_text("(assert nonsense")
    else:
        assert script("install_tool", "v1", folder=tmp_path).returncode == 0
        ready = script("prepare_instance", "v1", "none", difference, prop, folder=tmp_path)
        assert ready.returncode == 0, ready.stderr
    done = script("run_instance", "v1", "none", difference, prop, results, 20, folder=tmp_path)
    assert done.returncode == wanted, done.stderr
    first, _, rest = results.read_text().partition("\n")
    assert first == word
    assert ("(X_0 " in rest) == (word == "sat")


@pytest.mark.parametrize("name", ["install_tool", "prepare_instance", "run_instance"])
def test_another_version_is_refused(name: str, tmp_path: Path) -> None:
    assert script(name, "v9", folder=tmp_path).returncode == 1


def test_files_that_are_missing_cannot_be_prepared(tmp_path: Path) -> None:
    done = script("prepare_instance", "v1", "none", "no.onnx", "no.vnnlib", folder=tmp_path)
    assert done.returncode == 1
    assert "no.onnx cannot be read" in done.stderr
