"""HiGHS in a process of its own, against the shipped suite."""

from __future__ import annotations

from closegap.mip.model import MipBackend
from closegap.mip.registry import backend
from closegap.testing.mip_cases import MipBackendCase


class TestHighsProcess(MipBackendCase):
    def backend(self) -> MipBackend:
        return backend("highs-process")
