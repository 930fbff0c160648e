"""Hundreds of images, one process: its memory does not grow with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Growth of the resident set over the last 240 images, in MiB. One image's bounds alone take more
#: than the quarter of a MiB that a leak of this size would keep of each.
ALLOWED_MIB = 25

_SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
import closegap
from closegap.data import digits_split
from closegap.evaluate import *
from closegap.store import RunStore

model = Path(closegap.__file__).parent / "demo" / "digits_cnn.onnx"
data = digits_split().held_out
data = replace(data, images=data.images[:300], labels=data.labels[:300], indices=data.indices[:300])
plan = plan_images(ModelFile(str(model), closegap.load(model).digest), data, Question(0.1),
                   WorkOptions(("clean", "crown")), data_digest=data.digest)

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20

def watch(event):
    if event.tally.done in (60, 300):
        print(resident())

with RunStore.create_or_resume(sys.argv[1], plan.header) as store:
    evaluate(plan, SerialExecutor(), store, watch)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path / "run.db")],
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    early, late = (float(line) for line in done.stdout.split())
    assert late - early < ALLOWED_MIB
