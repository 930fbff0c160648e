"""Which engine comes first, by what the query is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from closegap.core.verdict import Verdict
from closegap.frontend.load import load
from closegap.specs.vnnlib import load_vnnlib, queries
from closegap.strategy.solve import solve

_FOLDER = "vnncomp/traffic_signs_recognition"


def test_attacks_come_before_linear_bounds_on_images_with_signs(
    data_path: Callable[[str], Path],
) -> None:
    folder = data_path(_FOLDER)
    model = next((folder / "onnx").glob("3_64_64*"))
    spec = next((folder / "vnnlib").glob("model_64_idx_8258_eps_3.0*"))
    (query,) = queries(load_vnnlib(spec), load(model))
    result = solve(query, timeout=20)
    assert result.verdict is Verdict.FALSIFIED
    assert "crown" not in result.engine_seconds
