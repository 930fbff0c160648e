"""A large tree stays inside its memory; `benchmarks/tree_memory.py` grows one of a million."""

from __future__ import annotations

import subprocess
import sys

LIMIT = 8 * 2**20
_SCRIPT = """
import resource, sys
from closegap.testing.synthetic_tree import grow
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
grow(2_000, 50, 2**16, batch=512)
before = peak()
grown = grow(60_000, 500, {limit}, batch=512)
assert grown.nodes >= 60_000 and grown.balanced and grown.plunged
print(peak() - before, grown.tree_bytes, grown.slot_bytes)
"""


def test_growth_is_the_tree_and_its_slots() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(limit=LIMIT)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    growth, tree, slots = (int(text) for text in done.stdout.split())
    assert slots < 1.5 * LIMIT
    assert growth < 2 * (tree + slots) + 8 * 2**20
