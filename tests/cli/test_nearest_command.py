"""`closegap attack --method sigma-zero` and its like, on the packaged network for digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
import pytest

from closegap.attacks.minimal.fmn import FMNSearch, FMNState
from closegap.attacks.minimal.lanes import Best, Lanes, Seen
from closegap.data import load_data, select

Call: TypeAlias = Callable[..., Any]

DIGITS = Path(str(files("closegap") / "demo" / "digits_mlp.onnx"))
#: All norms, and every method but those that differ from others in their inner loop only.
METHODS = [("sigma-zero", 0.0), ("fmn", math.inf), ("ead", 1.0), ("deepfool", 2.0), ("cw", 2.0)]
KEYS = ["index", "label", "verdict", "distance", "norm", "pixels", "target", "rounding",
        "reason", "seconds"]  # fmt: skip


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """Four digits that the network knows, the second of them with a wrong label."""
    chosen = select(load_data("digits"), limit=4)
    labels = chosen.labels.copy()
    labels[1] = (labels[1] + 1) % 10
    path = tmp_path / "digits.npz"
    np.savez(path, images=chosen.images, labels=labels)
    return path


def _outputs(images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(DIGITS))
    entry = session.get_inputs()[0]
    shape = tuple(n if isinstance(n, int) and n > 0 else 1 for n in entry.shape)
    rows = [session.run(None, {entry.name: one.reshape(shape)})[0][0] for one in images]
    return np.stack(rows)


def _length(offset: np.ndarray, norm: float) -> float:
    return float(np.linalg.norm(offset.reshape(-1), ord=norm))


@pytest.mark.parametrize(("method", "norm"), METHODS)
def test_rows_say_what_the_saved_images_are(
    call: Call, digits: Path, tmp_path: Path, method: str, norm: float
) -> None:
    saved = tmp_path / "near.npz"
    said = call(
        *("attack", DIGITS, "--data", digits, "--method", method, "--steps", "25"),
        *("--json", "--save", saved),
    )
    assert said.code == 0, said.err
    assert [list(row) for row in said.rows] == [KEYS] * 4
    with np.load(digits) as data, np.load(saved) as found:
        clean, near = data["images"].astype(float), found["images"]
        assert found["broken"].tolist() == [row["verdict"] != "unknown" for row in said.rows]
        outputs = _outputs(near)
        for place, row in enumerate(said.rows):
            offset = near[place] - clean[place]
            assert (row["index"], row["label"]) == (place, data["labels"][place])
            assert row["norm"] == f"{norm:g}"
            if row["verdict"] == "unknown":
                assert row["distance"] is None and not offset.any()
                continue
            assert outputs[place].argmax() == row["target"] != row["label"]
            assert row["distance"] == pytest.approx(_length(offset, norm), rel=1e-12)
            assert row["distance"] == found["distances"][place]
            assert row["pixels"] == np.count_nonzero(offset)
            assert near[place].min() >= 0 and near[place].max() <= 1
    wrong = said.rows[1]
    assert (wrong["verdict"], wrong["distance"], wrong["pixels"]) == ("misclassified", 0.0, 0)
    verdicts = [row["verdict"] for row in said.rows if row["index"] != 1]
    assert verdicts == ["falsified"] * 3


def test_the_norm_chooses_the_distance(call: Call, digits: Path) -> None:
    for norm in ("0", "l1", "2", "inf"):
        said = call(
            *("attack", DIGITS, "--data", digits, "--method", "fmn", "--norm", norm),
            *("--limit", "1", "--steps", "30", "--json"),
        )
        assert said.code == 0, said.err
        assert [row["norm"] for row in said.rows] == [norm.removeprefix("l")]
        assert said.rows[0]["verdict"] == "falsified"


def test_indices_seed_and_timeout_are_obeyed(call: Call, digits: Path, tmp_path: Path) -> None:
    (tmp_path / "which.txt").write_text("3\n0\n")
    asked = ("attack", DIGITS, "--data", digits, "--method", "sigma-zero", "--steps", "30")
    some = (*asked, "--indices", tmp_path / "which.txt", "--json")
    first, again = (call(*some, "--seed", "5", "--restarts", "3").rows for _ in range(2))
    assert [row["index"] for row in first] == [3, 0]
    assert [row["distance"] for row in first] == [row["distance"] for row in again]
    late = call(*some, "--timeout", "0").rows
    assert {(row["verdict"], row["reason"], row["distance"]) for row in late} == {
        ("unknown", "time", None)
    }
    table = call(*asked, "--limit", "2")
    assert table.code == 0
    assert "sigma-zero on digits_mlp.onnx" in table.out and "misclassified" in table.out


def test_an_interrupted_batch_is_shown_and_saved(
    call: Call, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, step = tmp_path / "near.npz", FMNSearch.step

    def stepped(search: FMNSearch, lanes: Lanes, state: FMNState, seen: Seen, best: Best) -> Any:
        if state.taken == 60:
            raise KeyboardInterrupt
        return step(search, lanes, state, seen, best)

    monkeypatch.setattr(FMNSearch, "step", stepped)
    said = call(
        *("attack", DIGITS, "--data", digits, "--method", "fmn", "--norm", "2"),
        *("--save", saved, "--json"),
    )
    assert said.code == 130
    broken = [row["distance"] is not None for row in said.rows]
    assert any(broken) and all(row["reason"] in (None, "interrupted") for row in said.rows)
    with np.load(saved) as found:
        assert found["broken"].tolist() == broken


def test_misuse_is_one_line(call: Call, digits: Path, tmp_path: Path) -> None:
    asked = ("attack", DIGITS, "--data", digits, "--method")
    refused = {
        (*asked, "sigma-zero", "--eps", "0"): "sigma-zero looks for the nearest image and takes no",
        (*asked, "sigma-zero", "--norm", "2"): "sigma-zero minimises l0, not l2",
        (*asked, "deepfool", "--norm", "0"): "deepfool minimises l2, linf, l1, not l0",
        (*asked, "fmn", "--norm", "3"): "'3' is not a norm; use inf, 2, 1 or 0",
        (*asked, "ead", "--step-size", "0.1"): "ead has no radius",
        (*asked, "ead", "--save", tmp_path / "x.txt"): "must end in .npz",
        (*asked, "sigmazero"): "--eps is missing; only --minimise and sigma-zero, fmn",
        (*asked, "pgd", "--eps", "0.1", "--norm", "0"): "norm must be 1, 2 or inf",
    }
    for arguments, text in refused.items():
        said = call(*arguments)
        assert said.code == 2
        (line,) = said.error_lines
        assert text in line
