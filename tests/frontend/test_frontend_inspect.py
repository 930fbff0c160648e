"""Inspection tells what is there and everything that is not supported."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from frontend_models import model, node

from closegap.cli.inspect import inspect_command
from closegap.core.errors import ModelError
from closegap.frontend import agreement, inspect_model


def _write(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    return path


def _small(tmp_path):
    nodes = [
        node("Conv", ["input", "k", "b"], "c"),
        node("Relu", ["c"], "r"),
        node("MaxPool", ["r"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p"], "f"),
        node("Gemm", ["f", "w", "v"], "z"),
        node("Sigmoid", ["z"]),
    ]
    weights = {
        "k": np.ones((2, 1, 2, 2)),
        "b": np.ones(2),
        "w": np.ones((8, 3)),
        "v": np.ones(3),
    }
    return _write(tmp_path, model(nodes, ["N", 1, 5, 5], weights))


def test_counts_follow_from_the_architecture(tmp_path):
    inspection = inspect_model(_small(tmp_path))
    assert inspection.supported
    assert inspection.input_shape == ("N", 1, 5, 5)
    assert inspection.output_shape == (3,)
    assert inspection.parameters == 8 + 2 + 24 + 3
    assert inspection.neurons == {"Relu": 2 * 16, "Max": 2 * 4, "Sigmoid": 3}
    assert inspection.operators["Conv"] == 1
    assert inspection.layers[0].op == "Input"
    assert sum(layer.parameters for layer in inspection.layers) == 8 + 2 + 24 + 3


def test_every_unsupported_node_is_listed(tmp_path):
    nodes = [
        node("Gelu", ["input"], "a"),
        node("MatMul", ["a", "w"], "b"),
        node("Mul", ["b", "b"], "c"),
        node("NonZero", ["c"], "d"),
        node("Cast", ["d"], "e", to=1),
        node("Erf", ["e"], "f"),
        node("Relu", ["f"]),
    ]
    path = _write(tmp_path, model(nodes, ["N", 4], {"w": np.ones((4, 3))}, opset=20))
    inspection = inspect_model(path)
    assert not inspection.supported
    assert [item.op for item in inspection.unsupported] == ["Gelu", "Mul", "NonZero", "Erf"]
    assert all(item.reason and item.advice for item in inspection.unsupported)
    assert inspection.layers == ()
    assert inspection.operators["Relu"] == 1


def test_unsupported_nodes_that_mix_the_batch(tmp_path):
    nodes = [node("Elu", ["input"], "e"), node("Reshape", ["e", "t"])]
    path = _write(tmp_path, model(nodes, ["N", 4], {"t": np.array([1, -1])}))
    assert [item.op for item in inspect_model(path).unsupported] == ["Elu"]


def test_problems_that_are_no_unsupported_node(tmp_path):
    path = _write(
        tmp_path, model([node("Mul", ["input", "w"])], ["N", 2], {"w": np.array([1, np.inf])})
    )
    inspection = inspect_model(path)
    assert not inspection.supported
    assert "infinity" in inspection.problem


def test_disagreement_is_reported(tmp_path, monkeypatch):
    path = _small(tmp_path)

    def refuse(network):
        raise ModelError("they differ")

    monkeypatch.setattr("closegap.frontend.inspect.check_agreement", refuse)
    monkeypatch.setattr(agreement, "_checked", set())
    assert inspect_model(path).problem == "they differ"
    assert inspect_model(path, check=False).supported


def test_command_shows_tables_and_json(tmp_path):
    path = str(_small(tmp_path))
    shown = CliRunner().invoke(inspect_command, [path])
    assert shown.exit_code == 0
    assert "32 Relu" in shown.output
    assert "N x 1 x 5 x 5" in shown.output
    printed = CliRunner().invoke(inspect_command, [path, "--json", "--no-check"])
    assert printed.output.count("\n") == 1
    record = json.loads(printed.output)
    assert record["supported"] is True
    assert record["neurons"] == {"Relu": 32, "Max": 8, "Sigmoid": 3}


def test_command_lists_what_is_not_supported(tmp_path):
    path = str(_write(tmp_path, model([node("Erf", ["input"])], ["N", 2])))
    shown = CliRunner().invoke(inspect_command, [path], terminal_width=200)
    assert "not supported" in shown.output
    assert "Erf" in shown.output


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        inspect_model(tmp_path / "nothing.onnx")
