"""Reshapes, transposes, selections, padding and the batch axis against onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from frontend_models import EXAMPLES, assert_agrees, model, node, runs
from hypothesis import assume, given
from hypothesis import strategies as st

from closegap.core.errors import ModelError, UnsupportedOpError
from closegap.frontend import loads
from closegap.graph import ops

seeds = st.integers(0, 2**16)


def ints(*values):
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize(
    ("shape", "target", "batch"),
    [
        (["N", 2, 3, 4], (-1, 24), None),
        (["N", 2, 3, 4], (0, -1), None),
        (["N", 2, 3, 4], (0, 4, 6), None),
        (["N", 2, 3, 4], (0, 0, -1), None),
        (["N", 2, 3, 4], (-1, 4, 3, 2), None),
        (["N", 2, 3, 4], (1, -1), 1),
        (["N", 2, 3, 4], (1, 24), 1),
        ([1, 2, 3, 4], (1, -1), 1),
        ([1, 2, 3, 4], (24,), 1),
        ([1, 784, 1], (784, 1), 1),
        ([1, 6], (2, 3), 1),
        ([6], (2, 3), 1),
    ],
)
def test_reshape(shape, target, batch):
    nodes = [node("Reshape", ["input", "t"], "r"), node("Relu", ["r"])]
    network = assert_agrees(model(nodes, shape, {"t": ints(*target)}))
    assert network.batch == batch


@pytest.mark.parametrize("axis", [0, 1, 2, -1, 3])
@pytest.mark.parametrize("batch", ["N", 1])
def test_flatten(axis, batch):
    nodes = [node("Relu", ["input"], "r"), node("Flatten", ["r"], axis=axis)]
    network = assert_agrees(model(nodes, [batch, 2, 3], {}), count=1)
    assert network.output_size == 6


@EXAMPLES
@given(st.permutations(range(4)), st.permutations(range(4)), st.sampled_from(["N", 1]))
def test_transposes_may_move_the_batch_axis(first, second, batch):
    nodes = [
        node("Transpose", ["input"], "t", perm=first),
        node("Relu", ["t"], "r"),
        node("Transpose", ["r"], perm=second),
    ]
    composed = [first[i] for i in second]
    data = model(nodes, [batch, 2, 3, 4])
    network = assert_agrees(data)
    assert network.batch == (None if batch == "N" and composed[0] == 0 else 1)


def test_transposes_that_cancel_vanish():
    nodes = [
        node("Conv", ["input", "w"], "c"),
        node("Transpose", ["c"], "t", perm=[0, 2, 3, 1]),
        node("Relu", ["t"], "r"),
        node("Transpose", ["r"], "u", perm=[0, 3, 1, 2]),
        node("Conv", ["u", "w"]),
    ]
    network = assert_agrees(model(nodes, ["N", 2, 4, 4], {"w": np.ones((2, 2, 2, 2))}))
    assert [type(n.op) for n in network.nodes] == [ops.Input, ops.Conv, ops.Relu, ops.Conv]


@pytest.mark.parametrize("opset", [11, 13])
def test_squeeze_and_unsqueeze(opset):
    weights = {"a": ints(2), "b": ints(1, -1)} if opset >= 13 else {}
    first = {"inputs": ["input", "a"]} if weights else {"inputs": ["input"], "axes": [2]}
    second = {"inputs": ["r", "b"]} if weights else {"inputs": ["r"], "axes": [1, -1]}
    nodes = [
        node("Squeeze", output="s", **first),
        node("Relu", ["s"], "r"),
        node("Unsqueeze", **second),
    ]
    network = assert_agrees(model(nodes, ["N", 3, 1, 2], weights, opset))
    assert network.nodes[-1].shape == (1, 3, 2, 1)


def test_squeeze_of_every_axis_of_length_one():
    assert_agrees(model([node("Squeeze", ["input"])], [1, 1, 3, 1]))


@EXAMPLES
@given(st.data(), st.sampled_from([9, 10, 13]), st.sampled_from(["N", 1]), seeds)
def test_slice(data, opset, batch, seed):
    axes = data.draw(st.lists(st.sampled_from([1, 2, -1, -2]), min_size=1, unique=True))
    assume(len({a % 3 for a in axes}) == len(axes))
    starts = [data.draw(st.integers(-6, 6)) for _ in axes]
    ends = [data.draw(st.sampled_from([-7, -1, 1, 2, 3, 2**31 - 1])) for _ in axes]
    names, weights, attributes = ["input"], {}, {}
    if opset >= 10:
        steps = [data.draw(st.sampled_from([1, 2, -1, -2])) for _ in axes]
        weights = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*steps)}
        names += ["s", "e", "a", "t"]
    else:
        attributes = {"starts": starts, "ends": ends, "axes": axes}
    onnx_bytes = model([node("Slice", names, **attributes)], [batch, 4, 5], weights, opset)
    assume(runs(onnx_bytes))
    try:
        assert_agrees(onnx_bytes, seed)
    except UnsupportedOpError as error:
        assert "selects nothing" in str(error)


def test_slice_that_keeps_the_whole_batch():
    weights = {"s": ints(0, 1), "e": ints(2**31 - 1, 3), "a": ints(0, 1)}
    network = assert_agrees(model([node("Slice", ["input", "s", "e", "a"])], ["N", 4], weights))
    assert network.batch is None


def test_slice_of_the_batch_is_refused():
    weights = {"s": ints(1), "e": ints(2), "a": ints(0)}
    with pytest.raises(UnsupportedOpError, match=r"Slice_node.*batch axis"):
        loads(model([node("Slice", ["input", "s", "e", "a"])], ["N", 4], weights))


@pytest.mark.parametrize(
    ("opset", "parts"), [(11, [1, 3]), (11, None), (13, [1, 3]), (13, None), (18, None)]
)
def test_split(opset, parts):
    names, weights, attributes = ["input"], {}, {"axis": 1}
    if parts and opset >= 13:
        names, weights = ["input", "p"], {"p": ints(*parts)}
    elif parts:
        attributes["split"] = parts
    if opset >= 18:
        attributes["num_outputs"] = 2
    split = onnx.helper.make_node("Split", names, ["a", "b"], **attributes)
    nodes = [split, node("Relu", ["b"], "r"), node("Concat", ["r", "a"], axis=1)]
    assert_agrees(model(nodes, ["N", 4, 2], weights, opset))


@pytest.mark.parametrize("indices", [2, [2], [0, -1, 0], [[0, 1], [2, 2]]])
@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("batch", ["N", 1])
def test_gather(indices, axis, batch):
    gather = node("Gather", ["input", "i"], axis=axis)
    assert_agrees(model([gather], [batch, 3, 4], {"i": np.array(indices, dtype=np.int64)}))


def test_gather_of_the_only_image():
    gather = node("Gather", ["input", "i"], axis=0)
    network = assert_agrees(model([gather], ["N", 3], {"i": np.array(0, dtype=np.int64)}))
    assert network.batch == 1


def test_concat_with_constants_on_both_sides():
    nodes = [
        node("Relu", ["input"], "r"),
        node("Concat", ["a", "input", "b", "c", "r", "a"], axis=1),
    ]
    weights = {"a": np.ones((1, 2)), "b": np.full((1, 1), -3.0), "c": np.full((1, 2), 0.5)}
    assert_agrees(model(nodes, [1, 3], weights))


@EXAMPLES
@given(st.data(), st.sampled_from([2, 11, 18]), st.sampled_from(["constant", "edge", "reflect"]))
def test_pad(data, opset, mode):
    widths = [data.draw(st.integers(-1, 2)) for _ in range(4)]
    value = data.draw(st.sampled_from([0.0, 1.5])) if mode == "constant" else 0.0
    pads = [0, 0, *widths[:2], 0, 0, *widths[2:]]
    if opset == 2:
        pad = node("Pad", ["input"], pads=pads, mode=mode, value=value)
        weights = {}
    elif opset == 11:
        pad = node("Pad", ["input", "p", "v"], mode=mode)
        weights = {"p": ints(*pads), "v": np.array(value)}
    else:
        pad = node("Pad", ["input", "p", "v", "a"], mode=mode)
        weights = {"p": ints(*widths), "v": np.array(value), "a": ints(2, -1)}
    onnx_bytes = model([pad], ["N", 2, 4, 5], weights, opset)
    assume(runs(onnx_bytes))
    if mode != "constant":
        assume(min(widths) >= 0)  # onnxruntime crops after it repeats, ONNX leaves that open
    assert_agrees(onnx_bytes)


@pytest.mark.parametrize("batch", ["N", 1])
def test_expand_and_tile(batch):
    nodes = [
        node("Expand", ["input", "e"], "x"),
        node("Tile", ["x", "t"]),
    ]
    weights = {"e": ints(1, 3, 4), "t": ints(1, 2, 1)}
    assert_agrees(model(nodes, [batch, 3, 1], weights))


def test_shape_arithmetic_keeps_a_free_batch():
    """What exporters write for x.reshape(x.shape[0], -1) and x.view(-1, 2, 6)."""
    nodes = [
        node("Shape", ["input"], "s"),
        node("Constant", [], "zero", value=onnx.numpy_helper.from_array(ints(0)[0])),
        node("Gather", ["s", "zero"], "n", axis=0),
        node("Unsqueeze", ["n", "axis"], "n1"),
        node("Concat", ["n1", "rest"], "t", axis=0),
        node("Cast", ["t"], "t32", to=6),
        node("Cast", ["t32"], "t64", to=7),
        node("Reshape", ["input", "t64"], "r"),
        node("Relu", ["r"]),
    ]
    weights = {"axis": ints(0), "rest": ints(2, -1)}
    network = assert_agrees(model(nodes, ["N", 3, 4], weights))
    assert network.batch is None
    assert network.nodes[-1].shape == (2, 6)


def test_constant_of_the_batch_shape_falls_back_to_one_input_at_a_time():
    nodes = [
        node("Shape", ["input"], "s"),
        node("ConstantOfShape", ["s"], "zeros"),
        node("Concat", ["input", "zeros"], axis=1),
    ]
    network = assert_agrees(model(nodes, ["N", 3]))
    assert network.batch == 1


def test_constant_nodes_of_every_form():
    nodes = [
        node("Constant", [], "a", value_float=2.0),
        node("Constant", [], "b", value_floats=[1.0, 2.0, 3.0]),
        node("Constant", [], "c", value_ints=[-1, 3]),
        node("Mul", ["input", "a"], "m"),
        node("Add", ["m", "b"], "n"),
        node("Reshape", ["n", "c"]),
    ]
    assert_agrees(model(nodes, ["N", 3]))


def test_identities():
    nodes = [
        node("Identity", ["input"], "i"),
        node("Dropout", ["i", "ratio"], "d"),
        node("Cast", ["d"], "c", to=1),
        node("Relu", ["c"]),
    ]
    network = assert_agrees(model(nodes, ["N", 3], {"ratio": np.array(0.5)}))
    assert len(network.nodes) == 2


def test_dropout_in_training_is_refused():
    nodes = [node("Dropout", ["input", "ratio", "train"])]
    weights = {"ratio": np.array(0.5), "train": np.array(True)}
    with pytest.raises(UnsupportedOpError, match="training mode"):
        loads(model(nodes, ["N", 3], weights))


@pytest.mark.parametrize("shape", [[5], [28, 28], [3, 8, 8], [1, 5], ["unk__17", 4, 4, 3]])
def test_inputs_with_and_without_a_batch_axis(shape):
    rest = shape[1:] if len(shape) > 1 and shape[0] in (1, "unk__17") else shape
    network = assert_agrees(model([node("Relu", ["input"])], shape))
    assert network.input_shape == tuple(rest)


@pytest.mark.parametrize("shape", [["N", "H", 3], [1, "n"], ["N"], ["N", 0]])
def test_dynamic_shapes_are_refused(shape):
    with pytest.raises(ModelError, match=r"only the first dimension \(the batch\) may be free"):
        loads(model([node("Relu", ["input"])], shape))


def test_free_batch_mixed_into_features_for_good_is_refused():
    """Flattening everything into one row leaves no batch of its own when N is free: N becomes 1."""
    nodes = [node("Reshape", ["input", "t"], "r"), node("MatMul", ["r", "w"])]
    data = model(nodes, ["N", 4], {"t": ints(2, -1), "w": np.ones((4, 2))})
    with pytest.raises(UnsupportedOpError):
        loads(data)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([node("MatMul", ["input", "w"])], r"a value of shape \[batch, 4\] meets a matrix of 5"),
        ([node("Conv", ["input", "w"])], r"its input has shape \[batch, 4\], no spatial axis"),
    ],
)
def test_a_free_batch_has_its_name_in_messages(nodes, said):
    data = model(nodes, ["N", 4], {"w": np.ones((5, 2))})
    with pytest.raises(UnsupportedOpError, match=said):
        loads(data)
