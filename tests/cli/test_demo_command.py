"""`closegap demo --binarized` on a few digits; the whole demo is in `tests/examples`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from closegap.cli import demo


def test_the_network_of_signs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_IMAGES", 2)
    monkeypatch.setattr(demo, "_WORKERS", 1)
    done = CliRunner().invoke(demo.demo_command, ["--binarized", "--json"])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2 and all(row["engine"] for row in rows)
    assert "digits_bnn.onnx --data digits --eps 0.02" in done.stderr
    assert "digits_bnn" in (tmp_path / "closegap-demo.html").read_text(encoding="utf-8")
