"""Shared fixtures: one seeded generator, and the way to real data."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import typechecking

typechecking.install("closegap")

_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rng() -> np.random.Generator:
    """The one source of randomness in tests."""
    return np.random.default_rng(20260)


def data_root() -> Path:
    """Where real networks and images lie; may not exist."""
    return Path(os.environ.get("CLOSEGAP_DATA", _ROOT.parent / "shared" / "data"))


@pytest.fixture
def data_path() -> Callable[[str], Path]:
    """Path of a file or folder in the data pack; skips the test where it is absent."""

    def find(relative: str) -> Path:
        path = data_root() / relative
        if not path.exists():
            text = f"{relative} is not under CLOSEGAP_DATA ({data_root()})"
            if os.environ.get("CLOSEGAP_REQUIRE_DATA") == "1":
                pytest.fail(text)
            pytest.skip(text)
        return path

    return find


def pytest_collection_finish() -> None:
    """Load what engines need before clocks of tests run: with types checked it takes seconds."""
    engines = sys.modules.get("closegap.strategy.engines")
    for make in getattr(engines, "ENGINES", {}).values():
        make()
