"""SCIP in a process of its own, against the shipped suite."""

from __future__ import annotations

import numpy as np
import pytest

from closegap.core.errors import OptionError
from closegap.mip.model import MipBackend
from closegap.mip.registry import backend
from closegap.mip.scip import ScipInProcess
from closegap.testing.mip_cases import MipBackendCase
from closegap.testing.mip_models import random_linear


class TestScip(MipBackendCase):
    def backend(self) -> MipBackend:
        return backend("scip")


def test_scip_holds_no_sessions(rng: np.random.Generator) -> None:
    with pytest.raises(OptionError, match="highs"):
        ScipInProcess().session(random_linear(rng, rows=2, columns=2))
