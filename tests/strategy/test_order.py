"""Which engine comes first, by what the query is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from closegap.core.verdict import Verdict
from closegap.frontend.load import load
from closegap.specs.region import Box, bounding_box
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


def test_patterns_of_few_signs_prove_an_image_where_nothing_is_pooled(
    data_path: Callable[[str], Path],
) -> None:
    folder = data_path(_FOLDER)
    spec = next((folder / "vnnlib").glob("model_30_idx_8258_eps_3.0*"))
    (query,) = queries(load_vnnlib(spec), load(next((folder / "onnx").glob("3_30_30*"))))
    box = bounding_box(query.region)
    assert (box.upper - box.lower == 6).all()
    middle = (box.lower + box.upper) / 2
    result = solve(replace(query, region=Box(middle - 1, middle + 1)), timeout=20)
    assert result.verdict is Verdict.VERIFIED
    assert result.engine == "binarized"
    assert result.bracket.witness is not None
    assert 24 <= result.bracket.lower <= result.bracket.upper
    assert np.isfinite(result.clause_lower).all()
