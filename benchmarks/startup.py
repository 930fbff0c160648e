"""What `closegap verify` costs on a property that needs no search, beside importing torch alone.

Both are whole processes, started in turn so that they share the machine's moods.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click
import numpy as np

from closegap.testing.networks import random_mlp
from common import print_table

_SPEC = """
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (and (>= X_0 0.4) (<= X_0 0.5) (>= X_1 0.4) (<= X_1 0.5)))
(assert (>= Y_0 1000.0))
"""
#: Runs the command and fails should it have loaded torch into the process that waits.
_VERIFY = """
import sys
from closegap.cli.main import run
code = run(sys.argv[1:])
assert "torch" not in sys.modules, "the waiting process loaded torch"
sys.exit(code)
"""


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
def main(rounds: int) -> None:
    """Print seconds of both, their ratio and their difference."""
    with tempfile.TemporaryDirectory() as folder:
        model, spec = Path(folder) / "tiny.onnx", Path(folder) / "tiny.vnnlib"
        model.write_bytes(random_mlp(np.random.default_rng(0), [2, 3, 1]).onnx_bytes)
        spec.write_text(_SPEC, encoding="utf-8")
        commands = {
            "import torch": ["-c", "import torch"],
            "closegap verify": ["-c", _VERIFY, "verify", str(model), str(spec)],
        }
        for command in commands.values():
            _seconds(command)  # the files' first reading counts for neither
        seen = [[_seconds(command) for command in commands.values()] for _ in range(rounds)]
    rows = []
    for name, column in zip(commands, zip(*seen, strict=True), strict=True):
        rows.append((name, *(f"{median(part):.2f}" for part in zip(*column, strict=True))))
    for word, pair in (("ratio", _ratio), ("difference", _difference)):
        parts = [[pair(both, kind) for both in seen] for kind in range(2)]
        rows.append((word, *(f"{median(part):.2f}" for part in parts)))
    print_table(f"medians of {rounds} rounds", ("", "wall s", "processor s"), rows)


def _ratio(both: list[tuple[float, float]], kind: int) -> float:
    return both[1][kind] / both[0][kind]


def _difference(both: list[tuple[float, float]], kind: int) -> float:
    return both[1][kind] - both[0][kind]


def _seconds(arguments: list[str]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a Python process and its children."""
    before, began = _processor(), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment)
    return time.perf_counter() - began, _processor() - before


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
