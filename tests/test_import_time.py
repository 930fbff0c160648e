"""`import closegap` is light, and loads nothing heavy before it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from closegap.testing.networks import random_mlp

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
        "dir(closegap); closegap.attacks; from closegap.store import *; import closegap.data",
        "from closegap.specs.vnnlib import *; from closegap.evaluate import *",
        "import closegap.cli.main, closegap.cli.evaluate, closegap.cli.verify, closegap.cli.report",
    ],
)
def test_parts_that_stay_light(then: str) -> None:
    assert _measured(then)[1] == []


def test_the_measurement_notices_what_is_loaded() -> None:
    assert "onnx" in _measured("import onnx")[1]


#: What the process that waits for one property does without, and the one that decides an easy one.
NOT_WAITING = (*HEAVY, "numpy", "scipy", "rich", "jaxtyping", "asyncio", "sqlite3")
NOT_WORKING = (
    "scipy", "highspy", "pyscipopt", "piqp", "matplotlib", "sklearn", "rich", "sqlite3",
    "closegap.encode", "closegap.mip", "closegap.verify.bab.search", "closegap.attacks.registry",
)  # fmt: skip
BOX = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (and (>= X_0 0.4) (<= X_0 0.5) (>= X_1 0.4) (<= X_1 0.5)))
(assert (>= Y_0 1000.0))
"""


def test_an_easy_property_loads_little(tmp_path: Path, rng: np.random.Generator) -> None:
    model, spec = tmp_path / "tiny.onnx", tmp_path / "tiny.vnnlib"
    model.write_bytes(random_mlp(rng, [2, 3, 1]).onnx_bytes)
    spec.write_text(BOX)
    program = Path(__file__).parent / "_one_property.py"
    done = subprocess.run(
        [sys.executable, str(program), str(model), str(spec)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    verdict, waiting, working = done.stdout.splitlines()
    assert verdict == "verified"
    assert set(json.loads(waiting)).isdisjoint(NOT_WAITING)
    assert set(json.loads(working)).isdisjoint(NOT_WORKING)
    assert "torch" in json.loads(working)
