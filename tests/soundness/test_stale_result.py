"""A result file never keeps the answer of an earlier run."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

import closegap.evaluate
from closegap.cli.verify import verify_command
from closegap.core.errors import ClosegapError


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ClosegapError("a worker could not start")])
def test_a_run_that_ends_early_leaves_no_old_answer(error, tmp_path, monkeypatch):
    def broken(*args, **options):
        raise error

    monkeypatch.setattr(closegap.evaluate, "verify_file", broken)
    result = tmp_path / "result.txt"
    result.write_text("unsat\n")
    CliRunner().invoke(verify_command, ["model.onnx", "spec.vnnlib", "--result", str(result)])
    assert result.read_text() == "unknown\n"
