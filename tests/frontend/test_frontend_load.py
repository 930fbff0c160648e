"""Files: gzip, damage, several inputs, wrong values; and what a wrong lowering would meet."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import onnx
import pytest
from frontend_models import model, node

from closegap.core.errors import ModelError
from closegap.core.numerics import IR_ABSOLUTE_TOLERANCE, IR_RELATIVE_TOLERANCE
from closegap.frontend import agreement, load, loads, source
from closegap.graph import ops
from closegap.runtime.replay import Replayer
from closegap.testing.networks import random_mlp, random_sign

TINY = model([node("MatMul", ["input", "w"])], ["N", 3], {"w": np.ones((3, 2))})


def _changed(change, data=TINY):
    proto = onnx.load_model_from_string(data)
    change(proto)
    return proto.SerializeToString()


def test_plain_and_gzipped_files_give_the_same_network(tmp_path):
    (tmp_path / "plain.onnx").write_bytes(TINY)
    (tmp_path / "with_suffix.onnx.gz").write_bytes(gzip.compress(TINY))
    (tmp_path / "without_suffix.onnx").write_bytes(gzip.compress(TINY))
    (tmp_path / "suffix_lies.onnx.gz").write_bytes(TINY)
    networks = [load(path) for path in sorted(tmp_path.iterdir())]
    assert {n.digest for n in networks} == {networks[0].digest}
    assert all(n.onnx_bytes == TINY for n in networks)
    assert load(str(tmp_path / "plain.onnx")).source.endswith("plain.onnx")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no such file"),
        (b"", "empty"),
        (b"just some text, no model at all", "not an ONNX file"),
        (np.random.default_rng(0).bytes(500), "not an ONNX file"),
        (gzip.compress(TINY, mtime=0)[:-20], "truncated gzip"),
        (gzip.compress(TINY, mtime=0)[:10] + b"\xff" * 30, "damaged gzip|truncated gzip"),
        (gzip.compress(b"text", mtime=0), "not an ONNX file"),
        (onnx.ModelProto().SerializeToString() or b"\x08\x08", "no graph"),
        (TINY[:40], "not an ONNX file"),
    ],
)
def test_files_that_are_no_model(tmp_path, content, text):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=text) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match="folder"):
        load(tmp_path)


def test_gzip_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "MAX_MODEL_BYTES", 1000)
    (tmp_path / "bomb.onnx.gz").write_bytes(gzip.compress(b"\0" * 100_000))
    with pytest.raises(ModelError, match="larger than"):
        load(tmp_path / "bomb.onnx.gz")
    (tmp_path / "large.onnx").write_bytes(b"\0" * 2000)
    with pytest.raises(ModelError, match="larger than"):
        load(tmp_path / "large.onnx")


def test_several_inputs_or_outputs_are_named():
    def two_inputs(proto):
        proto.graph.input.append(onnx.helper.make_tensor_value_info("second", 1, [1, 3]))

    def two_outputs(proto):
        proto.graph.output.append(onnx.helper.make_tensor_value_info("input", 1, None))

    with pytest.raises(ModelError, match=r"one input is needed, this model has 2 \(input, second"):
        loads(_changed(two_inputs))
    with pytest.raises(ModelError, match=r"one output is needed, this model has 2"):
        loads(_changed(two_outputs))


def test_nodes_without_what_they_need_are_named():
    pool = node("MaxPool", ["input"])
    with pytest.raises(ModelError, match=r"'MaxPool_node' \(MaxPool\) is malformed"):
        loads(model([pool], ["N", 1, 4, 4]))


def test_damaged_bytes_never_give_another_error(rng):
    """Any byte may be wrong; what comes back is a network or one line."""
    nodes = [
        node("Conv", ["input", "k"], "c", pads=[1, 1, 1, 1]),
        node("Shape", ["c"], "s"),
        node("Slice", ["s", "zero", "one"], "n"),
        node("Concat", ["n", "rest"], "t", axis=0),
        node("Reshape", ["c", "t"], "f"),
        node("Gemm", ["f", "w"], transB=1),
    ]
    weights = {
        "k": np.ones((2, 1, 3, 3)),
        "w": np.ones((2, 18)),
        "zero": np.array([0]),
        "one": np.array([1]),
        "rest": np.array([-1]),
    }
    sound = model(nodes, ["N", 1, 3, 3], weights)
    loads(sound)
    refused = 0
    for _ in range(400):
        damaged = bytearray(sound)
        for place in rng.integers(0, len(sound), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        try:
            loads(bytes(damaged), check=False)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def test_initializers_listed_as_inputs_are_no_inputs():
    """As in files of the first operator sets."""

    def old_style(proto):
        proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [3, 2]))

    assert loads(_changed(old_style)).output_size == 2


@pytest.mark.parametrize(
    ("kind", "name"), [(onnx.TensorProto.DOUBLE, "DOUBLE"), (onnx.TensorProto.INT64, "INT64")]
)
def test_inputs_that_are_not_float32_are_refused(kind, name):
    def change(proto):
        proto.graph.input[0].type.tensor_type.elem_type = kind

    with pytest.raises(ModelError, match=f"holds {name} numbers.*float32"):
        loads(_changed(change))


def test_weights_in_another_file_are_refused():
    def change(proto):
        proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL

    with pytest.raises(ModelError, match="tensor 'w' lies in another file"):
        loads(_changed(change))


def test_damaged_weights_are_refused():
    def change(proto):
        proto.graph.initializer[0].raw_data = b"\0\0\0"

    with pytest.raises(ModelError, match="tensor 'w' is damaged"):
        loads(_changed(change))


def test_a_dangling_value_is_named():
    def change(proto):
        del proto.graph.initializer[:]

    with pytest.raises(ModelError, match="MatMul_node' reads 'w', which nothing computes"):
        loads(_changed(change))


def test_output_without_input_is_refused():
    data = model([node("Add", ["w", "w"])], ["N", 3], {"w": np.ones(3)})
    with pytest.raises(ModelError, match="does not depend on its input"):
        loads(data)


def test_unneeded_nodes_do_not_matter():
    nodes = [node("Gelu", ["input"], "unused"), node("Relu", ["input"])]
    assert len(loads(model(nodes, ["N", 3], opset=20)).nodes) == 2


def test_local_functions_are_inlined():
    function = onnx.helper.make_function(
        "local",
        "Twice",
        ["x"],
        ["y"],
        [onnx.helper.make_node("Add", ["x", "x"], ["y"])],
        [onnx.helper.make_opsetid("", 17)],
    )
    call = node("Twice", ["input"])
    call.domain = "local"

    def change(proto):
        proto.functions.append(function)
        proto.opset_import.append(onnx.helper.make_opsetid("local", 1))

    network = loads(_changed(change, model([call], ["N", 3])))
    assert [type(n.op) for n in network.nodes] == [ops.Input, ops.Add]


def _forget(network):
    agreement._checked.discard(network.digest)
    return network


def test_a_wrong_network_is_refused(rng):
    network = _forget(random_mlp(rng, [4, 8, 3]))
    last = network.nodes[-1]
    wrong = replace(last, op=replace(last.op, bias=last.op.bias + np.array([0.0, 0.01, 0.0])))
    with pytest.raises(ModelError, match=r"differ by 0\.0\d+ where outputs reach"):
        agreement.check_agreement(replace(network, nodes=(*network.nodes[:-1], wrong)))
    agreement.check_agreement(network)


def test_a_wrong_binarized_network_is_refused(rng):
    """Its outputs are whole numbers apart from a bias: no tie may excuse a wrong lowering."""
    network = _forget(random_sign(rng, [6, 20, 20, 3]))
    signs = [i for i, n in enumerate(network.nodes) if isinstance(n.op, ops.Sign)]
    linear = network.nodes[signs[0] - 1]
    wrong = replace(linear, op=replace(linear.op, weight=-linear.op.weight))
    nodes = tuple(wrong if n is linear else n for n in network.nodes)
    with pytest.raises(ModelError, match="differ by"):
        agreement.check_agreement(replace(network, nodes=nodes))
    agreement.check_agreement(network)


def test_the_check_is_made_once(rng, monkeypatch):
    network = random_mlp(rng, [3, 3, 2])
    monkeypatch.setattr(agreement, "_outputs", lambda *_: pytest.fail("checked again"))
    loads(network.onnx_bytes)


def test_a_network_that_float32_computes_badly_is_not_refused():
    """Nearly equal ReLUs that cancel: float32 itself loses more than the tolerance."""
    nodes = [
        node("MatMul", ["input", "up"], "big"),
        node("Relu", ["big"], "r"),
        node("MatMul", ["r", "down"]),
    ]
    rng = np.random.default_rng(0)
    up = rng.normal(size=(3, 200))
    up[:, 100:] = up[:, :100] * (1 + 1e-5)
    down = np.concatenate([np.ones((100, 1)), -np.ones((100, 1))])
    data = model(nodes, ["N", 3], {"up": up, "down": down})
    network = loads(data)
    inputs = agreement.random_inputs(network)
    replayer = Replayer(network)
    exact = replayer.outputs_float64(inputs)
    lost = np.abs(replayer.outputs_float32(inputs) - exact)
    assert (lost > IR_RELATIVE_TOLERANCE * np.abs(exact) + IR_ABSOLUTE_TOLERANCE).any()
