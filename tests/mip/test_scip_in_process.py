"""SCIP in this process, against the shipped suite."""

from __future__ import annotations

from closegap.mip.model import MipBackend
from closegap.mip.scip import ScipInProcess
from closegap.testing.mip_cases import MipBackendCase


class TestScipInProcess(MipBackendCase):
    def backend(self) -> MipBackend:
        return ScipInProcess()
