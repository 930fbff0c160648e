"""Where a run's figures come from: versions, machine, time. Nothing heavy is imported."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from closegap.evaluate.processes import available_cores

__all__ = ["machine", "now", "versions"]

_PACKAGES = (
    "closegap", "numpy", "scipy", "torch", "onnx", "onnxruntime", "highspy", "pyscipopt", "piqp",
    "clarabel",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can change an answer."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, str]:
    """Processor, cores, memory and operating system."""
    facts = {
        "processor": _processor(),
        "cores": str(available_cores()),
        "system": f"{platform.system()} {platform.release()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        facts["memory"] = f"{pages / 1024**3:.1f} GiB"
    return facts


def now() -> str:
    """This moment in UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _processor() -> str:
    """The processor's name where the system tells it, else its architecture."""
    if sys.platform == "linux":
        try:
            lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
