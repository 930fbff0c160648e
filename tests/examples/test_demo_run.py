"""`closegap demo`: the whole way from the packaged file to the report, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def closegap(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "closegap", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_demo_decides_every_image(tmp_path: Path) -> None:
    began = time.monotonic()
    done = closegap(tmp_path, "demo", "--json")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 180  # 60 s is what a quiet machine must keep
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({row["index"] for row in rows}) == len(rows) == 100
    verdicts = [row["verdict"] for row in rows]
    assert verdicts.count("unknown") == 0
    assert verdicts.count("verified") >= 80
    assert verdicts.count("falsified") >= 5
    for row in rows:
        assert (row["lower"] is not None and row["lower"] > 0) == (row["verdict"] == "verified")
        assert row["engine"] and row["seconds"] < 20
    page = (tmp_path / "closegap-demo.html").read_text(encoding="utf-8")
    assert "digits_cnn" in page
    assert list(tmp_path.iterdir()) == [tmp_path / "closegap-demo.html"]


@pytest.mark.parametrize(("name", "word"), [("digit_11", "sat"), ("digit_13", "unsat")])
def test_example_properties(tmp_path: Path, name: str, word: str) -> None:
    model = ROOT / "src" / "closegap" / "demo" / "digits_cnn.onnx"
    spec = ROOT / "examples" / f"{name}.vnnlib"
    result = tmp_path / "result.txt"
    done = closegap(tmp_path, "verify", str(model), str(spec), "--result", str(result))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == word
    assert result.read_text().split()[0] == word
