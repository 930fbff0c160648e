"""Non-linearities, signs in disguise and final Softmaxes against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from frontend_models import assert_agrees, model, node

from closegap.core.errors import UnsupportedOpError
from closegap.frontend import loads
from closegap.graph import ops
from closegap.runtime.replay import Replayer
from closegap.runtime.torch_network import TorchNetwork

#: Signs at zero are where lowerings of signs differ.
POINTS = np.array([[-2.0, -0.5, 0.0, 0.25, 3.0], [0.0, 1.0, -1.0, 0.5, -0.0]])


def _kinds(network):
    return [type(n.op) for n in network.nodes[1:]]


@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Tanh", "Sign", "Abs", "Neg", "Identity"])
def test_elementwise(op):
    assert_agrees(model([node(op, ["input"])], ["N", 5]), inputs=POINTS)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.5, 1.0, 1.5, -0.5])
def test_leaky_relu(slope):
    data = model([node("LeakyRelu", ["input"], alpha=slope)], ["N", 5])
    network = assert_agrees(data, inputs=POINTS)
    assert (ops.LeakyRelu in _kinds(network)) == (0 <= slope < 1)


@pytest.mark.parametrize("slope", [np.array([0.25]), np.linspace(-1, 2, 5)])
def test_prelu(slope):
    assert_agrees(model([node("PRelu", ["input", "s"])], ["N", 5], {"s": slope}), inputs=POINTS)


@pytest.mark.parametrize(
    ("low", "high", "relus"),
    [(0.0, 6.0, 2), (-1.0, 1.0, 2), (0.0, None, 1), (None, 0.5, 1), (2.0, 1.0, 2), (None, None, 0)],
)
@pytest.mark.parametrize("opset", [6, 13])
def test_clip(low, high, relus, opset):
    if opset == 6 and low is not None and high is not None and low > high:
        pytest.skip("only newer operator sets say what a minimum above the maximum means")
    weights, attributes = {}, {}
    if opset == 6:
        attributes = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
        names = ["input"]
    else:
        weights = {k: np.array(v) for k, v in (("low", low), ("high", high)) if v is not None}
        names = ["input", "low" if low is not None else "", "high" if high is not None else ""]
    clip = node("Clip", names, **attributes)
    network = assert_agrees(model([clip], ["N", 5], weights, opset), inputs=POINTS)
    assert _kinds(network).count(ops.Relu) == relus


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_greatest_and_least_of_several(op):
    nodes = [
        node("Tanh", ["input"], "t"),
        node(op, ["input", "t", "c"]),
    ]
    assert_agrees(model(nodes, ["N", 5], {"c": np.array([0.1])}), inputs=POINTS)


@pytest.mark.parametrize("offset", [0.1, 0.5, 0.999])
def test_sign_add_sign_is_a_sign_with_plus_one_at_zero(offset):
    nodes = [
        node("Sign", ["input"], "a"),
        node("Add", ["a", "c"], "b"),
        node("Sign", ["b"]),
    ]
    network = assert_agrees(model(nodes, ["N", 5], {"c": np.array(offset)}), inputs=POINTS)
    assert _kinds(network) == [ops.Sign]
    assert network.nodes[-1].op.at_zero == 1


def test_other_ways_to_write_that_sign():
    """Sub of a negative number, a scaled inner sign, a repeated sign, a reversed sum."""
    ways = [
        [node("Sign", ["input"], "a"), node("Sub", ["a", "minus"], "b"), node("Sign", ["b"])],
        [
            node("Sign", ["input"], "a"),
            node("Mul", ["a", "two"], "m"),
            node("Add", ["m", "plus"], "b"),
            node("Sign", ["b"], "s"),
            node("Sign", ["s"]),
        ],
        [node("Sign", ["input"], "a"), node("Add", ["plus", "a"], "b"), node("Sign", ["b"])],
    ]
    weights = {"minus": np.array(-0.1), "plus": np.array(0.2), "two": np.array(2.0)}
    for nodes in ways:
        network = assert_agrees(model(nodes, ["N", 5], weights), inputs=POINTS)
        assert _kinds(network) == [ops.Sign]
        assert network.nodes[-1].op.at_zero == 1


@pytest.mark.parametrize("offset", [-0.1, 1.0, 1.5, -1.5])
def test_sign_add_sign_with_another_offset_is_kept(offset):
    nodes = [node("Sign", ["input"], "a"), node("Add", ["a", "c"], "b"), node("Sign", ["b"])]
    network = assert_agrees(model(nodes, ["N", 5], {"c": np.array(offset)}), inputs=POINTS)
    assert _kinds(network) == [ops.Sign, ops.Shift, ops.Sign]


def test_repeated_plain_sign_keeps_zero():
    nodes = [node("Sign", ["input"], "a"), node("Sign", ["a"])]
    network = assert_agrees(model(nodes, ["N", 5]), inputs=POINTS)
    assert [n.op.at_zero for n in network.nodes[1:]] == [0]


@pytest.mark.parametrize("op", ["Greater", "GreaterOrEqual", "Less", "LessOrEqual"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_comparison_with_a_constant(op, reverse, threshold):
    names = ["c", "input"] if reverse else ["input", "c"]
    nodes = [
        node(op, names, "b"),
        node("Where", ["b", "yes", "no"], "w"),
        node("Cast", ["b"], "f", to=1),
        node("Add", ["w", "f"]),
    ]
    weights = {"c": np.array(threshold), "yes": np.array(1.0), "no": np.array(-1.0)}
    assert_agrees(model(nodes, ["N", 5], weights), inputs=POINTS)


def test_binarization_by_comparison_is_one_sign():
    nodes = [node("GreaterOrEqual", ["input", "c"], "b"), node("Where", ["b", "yes", "no"])]
    weights = {"c": np.array(0.0), "yes": np.array(1.0), "no": np.array(-1.0)}
    network = assert_agrees(model(nodes, ["N", 5], weights), inputs=POINTS)
    assert _kinds(network) == [ops.Sign]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_final_softmax_is_left_out(op, opset):
    nodes = [
        node("MatMul", ["input", "w"], "z"),
        node(op, ["z"], "p"),
        node("Identity", ["p"]),
    ]
    weights = {"w": 5 * np.random.default_rng(0).normal(size=(5, 4))}
    network = loads(model(nodes, ["N", 5], weights, opset))
    assert network.softmax_dropped
    assert any(op in note for note in network.notes)
    own = TorchNetwork(network)
    points = POINTS.astype(np.float32)
    order = own(own.tensor(points)).numpy().argsort(axis=1)
    assert (order == Replayer(network).outputs_float32(points).argsort(axis=1)).all()


def test_softmax_elsewhere_is_refused():
    inner = [node("Softmax", ["input"], "p"), node("Relu", ["p"])]
    over_part = [node("Softmax", ["input"], axis=2)]
    shared = [node("Softmax", ["input"], "p"), node("Neg", ["p"], "n"), node("Add", ["p", "n"])]
    for nodes in (inner, over_part, shared):
        with pytest.raises(UnsupportedOpError, match="only a final Softmax"):
            loads(model(nodes, ["N", 3, 5]))


def test_unknown_operator_is_named():
    with pytest.raises(UnsupportedOpError, match=r"Gelu at node 'Gelu_node'.*no rule.*rewrite"):
        loads(model([node("Gelu", ["input"])], ["N", 5], opset=20))
    with pytest.raises(UnsupportedOpError, match=r"Exp at node 'Exp_node'.*for constants only"):
        loads(model([node("Exp", ["input"])], ["N", 5]))
    foreign = node("FusedThing", ["input"])
    foreign.domain = "com.example"
    with pytest.raises(UnsupportedOpError, match=r"com.example.FusedThing.*standard"):
        loads(model([foreign], ["N", 5]))
