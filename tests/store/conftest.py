"""Headers and records to store."""

from __future__ import annotations

import numpy as np
import pytest

from closegap.core.verdict import Reason, Verdict
from closegap.store import BracketEvent, Pictures, Record, RunHeader


@pytest.fixture
def header() -> RunHeader:
    return RunHeader(
        kind="evaluate",
        model="net.onnx",
        model_digest="a" * 64,
        data="digits",
        data_digest="b" * 64,
        eps=8 / 255,
        norm="inf",
        timeout=20.0,
        engines=("clean", "pgd", "crown"),
        settings={"restarts": 3, "device": "cpu"},
        seed=0,
        command="closegap evaluate net.onnx --data digits --eps 8/255",
        versions={"closegap": "0.1.0"},
        machine={"cores": "2"},
        started="2026-01-01T00:00:00+00:00",
        total=2,
        class_names=("zero", "one"),
    )


@pytest.fixture
def falsified(rng: np.random.Generator) -> Record:
    return Record(
        key="k0",
        index=0,
        name="",
        label=7,
        target="3",
        verdict=Verdict.FALSIFIED,
        reason=None,
        detail="",
        lower=-float("inf"),
        upper=-0.25,
        engine="pgd",
        seconds=0.125,
        engine_seconds={"pgd": 0.1, "clean": 0.025},
        history=(
            BracketEvent(0.025, "clean", -float("inf"), 1.5),
            BracketEvent(0.125, "pgd", -float("inf"), -0.25),
        ),
        counts={"restarts": 3},
        pictures=Pictures(
            clean=rng.random((1, 8, 8), dtype=np.float32),
            witness=rng.random((1, 8, 8), dtype=np.float32),
            clean_outputs=rng.random(10, dtype=np.float32),
            witness_outputs=rng.random(10, dtype=np.float32),
            witness_outputs_float64=rng.random(10),
        ),
    )


@pytest.fixture
def unknown() -> Record:
    return Record(
        key="k1",
        index=1,
        name="prop_1",
        label=None,
        target="0",
        verdict=Verdict.UNKNOWN,
        reason=Reason.TIME,
        detail="the time ran out; a longer --timeout may decide it",
        lower=-1.0,
        upper=float("inf"),
        engine="crown",
        seconds=20.0,
    )
