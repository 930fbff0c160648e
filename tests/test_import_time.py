"""`import closegap` is light, and loads nothing heavy before it is used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "onnx", "onnxruntime", "matplotlib", "ray", "highspy", "pyscipopt")
SECONDS = 0.3

_SCRIPT = """
import json, sys, time
began = time.perf_counter()
import closegap
seconds = time.perf_counter() - began
{then}
print(json.dumps([seconds, [m for m in {heavy} if m in sys.modules]]))
"""


def _measured(then: str = "") -> tuple[float, list[str]]:
    """Seconds of the import, and which heavy modules are loaded after `then`."""
    script = _SCRIPT.format(heavy=HEAVY, then=then)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    seconds, loaded = json.loads(done.stdout.splitlines()[-1])
    return seconds, loaded


def test_import_is_fast_and_light() -> None:
    measured = [_measured() for _ in range(5)]
    assert [loaded for _, loaded in measured] == [[]] * 5
    assert min(seconds for seconds, _ in measured) < SECONDS


@pytest.mark.parametrize(
    "then",
    [
        "dir(closegap); closegap.attacks; import closegap.store, closegap.core, closegap.data",
        "import closegap.specs, closegap.specs.vnnlib, closegap.graph, closegap.evaluate",
        "import closegap.cli.main, closegap.cli.evaluate, closegap.cli.verify, closegap.cli.report",
    ],
)
def test_parts_that_stay_light(then: str) -> None:
    assert _measured(then)[1] == []


def test_the_measurement_notices_what_is_loaded() -> None:
    assert "onnx" in _measured("import onnx")[1]
