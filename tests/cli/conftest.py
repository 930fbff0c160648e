"""Small files for the command line, good and bad, and ways to call it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from closegap.cli.main import run
from closegap.evaluate import SerialExecutor


@dataclass(frozen=True)
class Said:
    """What one call of the command line answered."""

    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("closegap: ")]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every line of stdout as strict JSON."""
        return [json.loads(line, parse_constant=pytest.fail) for line in self.out.splitlines()]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Call the command line in this process."""

    def closegap(*arguments: object) -> Said:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return closegap


def write_mlp(
    path: Path,
    *,
    shape: tuple[int, ...] = (1, 8, 8),
    classes: int = 10,
    change: Callable[[dict[str, np.ndarray]], None] = lambda weights: None,
    activation: str = "Relu",
) -> Path:
    """An ONNX file: Flatten, Gemm, activation, Gemm; weights from a fixed seed."""
    rng = np.random.default_rng(7)
    inputs = int(np.prod(shape))
    weights = {
        "w1": rng.normal(size=(inputs, 12)).astype(np.float32) / inputs**0.5,
        "b1": 0.1 * rng.normal(size=12).astype(np.float32),
        "w2": rng.normal(size=(12, classes)).astype(np.float32),
        "b2": 0.1 * rng.normal(size=classes).astype(np.float32),
    }
    change(weights)
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"]),
        helper.make_node("Gemm", ["f", "w1", "b1"], ["h"]),
        helper.make_node(activation, ["h"], ["a"], name="act"),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", classes])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network for 8 x 8 images of 10 classes."""
    return write_mlp(tmp_path / "net.onnx")


@pytest.fixture
def images(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Six images with labels, as an .npz."""
    path = tmp_path / "images.npz"
    np.savez(path, images=rng.random((6, 1, 8, 8), dtype=np.float32), labels=np.arange(6))
    return path


@pytest.fixture
def right(model: Path, images: Path, tmp_path: Path) -> Path:
    """The same images, with the labels that the network gives them."""
    path = tmp_path / "right.npz"
    with np.load(images) as data:
        (outputs,) = InferenceSession(str(model)).run(None, {"x": data["images"]})
        np.savez(path, images=data["images"], labels=outputs.argmax(axis=1))
    return path


SPEC = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
(assert (>= X_0 0.0))
(assert (<= X_0 {high}))
(assert (>= X_1 0.25))
(assert (<= X_1 0.75))
(assert (<= Y_0 Y_1))
"""


@pytest.fixture
def difference(tmp_path: Path) -> Path:
    """A network with outputs `(2 x0, x1)` for x >= 0, so that verdicts are known by hand."""

    def change(weights: dict[str, np.ndarray]) -> None:
        for array in weights.values():
            array[...] = 0
        weights["w1"][[0, 1], [0, 1]] = 1
        weights["w2"][[0, 1], [0, 1]] = 2, 1

    return write_mlp(tmp_path / "difference.onnx", shape=(2,), classes=2, change=change)


@pytest.fixture
def spec(tmp_path: Path) -> Callable[..., Path]:
    """Write a property file: sat for the network `difference`, unless its text is changed."""

    def write(name: str = "prop.vnnlib", text: str = SPEC, high: float = 1.0) -> Path:
        path = tmp_path / name
        path.write_text(text.format(high=high))
        return path

    return write


class _Here(SerialExecutor):
    """In the place of worker processes."""

    threads = 1

    def __init__(self, workers: int) -> None:
        assert workers > 0


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let commands decide in this process: a worker takes seconds to start, and has other tests."""
    for module in ("closegap.evaluate", "closegap.evaluate.single"):
        monkeypatch.setattr(f"{module}.ProcessExecutor", _Here)


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CLOSEGAP_DEBUG", raising=False)
    yield
