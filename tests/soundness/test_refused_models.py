"""Models whose meaning the IR cannot keep are refused, not approximated."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from closegap.core.errors import ModelError, UnsupportedOpError
from closegap.frontend import loads
from closegap.runtime.cache import replayer
from closegap.testing.networks import onnx_model

_MOST = float(np.finfo(np.float32).max)


def read(nodes, weights, size=4, opset=17):
    return loads(onnx_model(nodes, weights, ["N", size], opset=opset))


def test_a_cast_to_half_precision_is_refused(rng):
    """Its rounding averages out over many inputs, so comparing values would not notice it."""
    nodes = [
        helper.make_node("Cast", ["input"], ["half"], to=onnx.TensorProto.FLOAT16),
        helper.make_node("Cast", ["half"], ["back"], to=onnx.TensorProto.FLOAT),
        helper.make_node("MatMul", ["back", "w"], ["output"]),
    ]
    with pytest.raises(UnsupportedOpError, match="Cast"):
        read(nodes, {"w": rng.random((4000, 2))}, size=4000)


@pytest.mark.parametrize("limits", [(np.inf, np.inf), (-1.0, -np.inf)])
def test_clipping_to_an_infinity_is_refused(limits):
    low, high = limits
    nodes = [helper.make_node("Clip", ["input", "low", "high"], ["output"])]
    with pytest.raises(UnsupportedOpError, match="infinity"):
        read(nodes, {"low": np.array(low), "high": np.array(high)})


@pytest.mark.parametrize("limits", [(0.0, _MOST), (-_MOST, 0.5), (-_MOST, _MOST)])
def test_the_greatest_float_is_no_limit(limits, rng):
    nodes = [
        helper.make_node("Clip", ["input"], ["z"], min=limits[0], max=limits[1]),
        helper.make_node("MatMul", ["z", "w"], ["output"]),
    ]
    weight = rng.normal(size=(4, 3)).astype(np.float32)
    judge = replayer(read(nodes, {"w": weight}, opset=9))
    points = (3 * rng.normal(size=(50, 4))).astype(np.float32)
    wanted = np.clip(points, *limits).astype(np.float64) @ weight
    np.testing.assert_allclose(judge.outputs_float32(points), wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(judge.outputs_float64(points), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_outputs_that_are_finite_nowhere_are_refused(rng):
    nodes = [
        helper.make_node("MatMul", ["input", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["k"]),
        helper.make_node("Mul", ["k", "little"], ["output"]),
    ]
    huge = [1e30 * rng.uniform(1, 2, size=(4, 4)) for _ in range(2)]
    with pytest.raises(ModelError, match="not finite"):
        read(nodes, {"w": huge[0], "v": huge[1], "little": np.array(1e-38)})


def test_a_training_dropout_is_refused():
    nodes = [helper.make_node("Dropout", ["input", "ratio", "training"], ["output"])]
    with pytest.raises(UnsupportedOpError, match="training"):
        read(nodes, {"ratio": np.array(0.5), "training": np.array(True)})


def test_a_softmax_in_the_middle_is_refused(rng):
    nodes = [
        helper.make_node("Softmax", ["input"], ["z"]),
        helper.make_node("MatMul", ["z", "w"], ["output"]),
    ]
    with pytest.raises(UnsupportedOpError, match="Softmax"):
        read(nodes, {"w": rng.normal(size=(4, 3))})
