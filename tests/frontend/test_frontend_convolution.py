"""Convolutions and pools against onnxruntime, over shapes and attributes."""

from __future__ import annotations

import numpy as np
import pytest
from frontend_models import EXAMPLES, assert_agrees, model, node, runs
from hypothesis import assume, given
from hypothesis import strategies as st

from closegap.core.errors import UnsupportedOpError
from closegap.frontend import loads
from closegap.graph import ops

seeds = st.integers(0, 2**16)


@st.composite
def windows(draw, *, most_pad=2):
    rank = draw(st.sampled_from([1, 2]))
    sizes = st.integers(1, 3)
    window = {
        "kernel_shape": [draw(sizes) for _ in range(rank)],
        "strides": [draw(sizes) for _ in range(rank)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(rank)],
    }
    mode = draw(st.sampled_from(["pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if mode == "pads":
        window["pads"] = [draw(st.integers(0, most_pad)) for _ in range(2 * rank)]
    else:
        window["auto_pad"] = mode
    spatial = [draw(st.integers(3, 7)) for _ in range(rank)]
    return window, spatial


@EXAMPLES
@given(windows(), st.integers(1, 2), st.integers(1, 2), st.sampled_from(["N", 1]), seeds)
def test_conv(window, groups, width, batch, seed):
    attributes, spatial = window
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(2 * groups, width, *attributes["kernel_shape"]))
    bias = rng.normal(size=2 * groups)
    data = model(
        [node("Conv", ["input", "w", "b"], group=groups, **attributes)],
        [batch, width * groups, *spatial],
        {"w": weight, "b": bias},
    )
    assume(runs(data))
    network = assert_agrees(data, seed)
    assert network.batch == (None if batch == "N" else 1)


@EXAMPLES
@given(windows(), st.integers(1, 2), st.data(), seeds)
def test_conv_transpose(window, groups, data, seed):
    attributes, spatial = window
    rank = len(spatial)
    rng = np.random.default_rng(seed)
    attributes["output_padding"] = [
        data.draw(st.integers(0, max(s, d) - 1))
        for s, d in zip(attributes["strides"], attributes["dilations"], strict=True)
    ]
    if "auto_pad" not in attributes and data.draw(st.booleans()):
        attributes["output_shape"] = [
            data.draw(st.integers(s * (n - 1) + 1, s * n))
            for s, n in zip(attributes["strides"], spatial, strict=True)
        ]
        del attributes["pads"]
    weight = rng.normal(size=(2 * groups, 2, *attributes["kernel_shape"]))
    bias = rng.normal(size=2 * groups)
    onnx_bytes = model(
        [node("ConvTranspose", ["input", "w", "b"], group=groups, **attributes)],
        ["N", 2 * groups, *spatial],
        {"w": weight, "b": bias},
    )
    assume(runs(onnx_bytes))
    network = assert_agrees(onnx_bytes, seed)
    assert any(isinstance(n.op, ops.ConvTranspose) for n in network.nodes)
    assert len(network.nodes[-1].shape) == rank + 1


@EXAMPLES
@given(windows(), st.booleans(), st.booleans(), seeds)
def test_max_pool(window, ceil, relu, seed):
    attributes, spatial = window
    assume(_pads_less_than_kernel(attributes))
    pool = node("MaxPool", ["r"], ceil_mode=int(ceil), **attributes)
    first = node("Relu" if relu else "Neg", ["input"], "r")
    _assert_pool_agrees(model([first, pool], ["N", 2, *spatial]), attributes, seed)


@EXAMPLES
@given(windows(), st.booleans(), st.booleans(), st.sampled_from([10, 11, 18, 19, 22]), seeds)
def test_average_pool(window, ceil, include_pad, opset, seed):
    attributes, spatial = window
    assume(_pads_less_than_kernel(attributes))
    if opset < 19:
        del attributes["dilations"]
    pool = node(
        "AveragePool",
        ["input"],
        ceil_mode=int(ceil),
        count_include_pad=int(include_pad),
        **attributes,
    )
    _assert_pool_agrees(model([pool], ["N", 2, *spatial], opset=opset), attributes, seed)


def _assert_pool_agrees(data, attributes, seed):
    assume(runs(data))
    skips = any(
        s > k for s, k in zip(attributes["strides"], attributes["kernel_shape"], strict=True)
    )
    dilated = max(attributes.get("dilations", [1])) > 1
    if attributes.get("auto_pad", "").startswith("SAME") and (skips or dilated):
        with pytest.raises(UnsupportedOpError, match="explicit pads"):
            loads(data)
        return
    assert_agrees(data, seed)


def _pads_less_than_kernel(attributes):
    """Otherwise a window may lie wholly in the padding, where a maximum is minus infinity."""
    kernel = attributes["kernel_shape"]
    pads = attributes.get("pads", [0] * (2 * len(kernel)))
    return all(p < k for p, k in zip(pads, kernel * 2, strict=True))


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("spatial", [[4], [3, 5], [2, 3, 2]])
def test_global_pools(op, spatial):
    assert_agrees(model([node(op, ["input"])], ["N", 3, *spatial]))


def test_conv_without_bias_or_kernel_shape():
    weight = np.arange(18.0).reshape(2, 1, 3, 3)
    assert_agrees(model([node("Conv", ["input", "w"])], [1, 1, 5, 5], {"w": weight}))


def test_three_dimensional_convolution_is_refused():
    data = model([node("Conv", ["input", "w"])], ["N", 1, 4, 4, 4], {"w": np.ones((1, 1, 2, 2, 2))})
    with pytest.raises(UnsupportedOpError, match=r"Conv_node.*3 spatial axes.*only one- and two"):
        loads(data)


def test_convolution_with_computed_weights_is_refused():
    data = model([node("Conv", ["input", "input"])], [1, 1, 3, 3])
    with pytest.raises(UnsupportedOpError, match="not a constant"):
        loads(data)


def test_pool_of_a_window_in_the_padding_is_refused():
    pool = node("MaxPool", ["input"], kernel_shape=[1, 1], pads=[1, 1, 1, 1])
    with pytest.raises(UnsupportedOpError, match="wholly in the padding"):
        loads(model([pool], [1, 1, 3, 3]))


def test_max_pool_indices_are_refused():
    import onnx

    pool = onnx.helper.make_node("MaxPool", ["input"], ["output", "where"], kernel_shape=[2, 2])
    with pytest.raises(UnsupportedOpError, match="more than its first output"):
        loads(model([pool], [1, 1, 4, 4]))


def test_max_pool_padding_counts_as_minus_infinity():
    """All inputs negative: zeros in the padding would win."""
    pool = node("MaxPool", ["input"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inputs = -1 - np.random.default_rng(0).random((3, 1, 5, 5))
    assert_agrees(model([pool], ["N", 1, 5, 5]), inputs=inputs)
