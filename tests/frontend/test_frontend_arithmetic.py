"""Matrix products, broadcasting arithmetic, normalisation and reductions against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from frontend_models import EXAMPLES, assert_agrees, model, node, runs
from hypothesis import assume, given
from hypothesis import strategies as st

from closegap.core.errors import ModelError, UnsupportedOpError
from closegap.frontend import loads
from closegap.graph import ops

seeds = st.integers(0, 2**16)
sizes = st.integers(1, 4)
scalars = st.sampled_from([1.0, 0.5, -2.0])


def _kinds(network):
    return [type(n.op) for n in network.nodes]


@EXAMPLES
@given(st.booleans(), st.booleans(), scalars, scalars, st.integers(0, 3), seeds)
def test_gemm_with_a_constant_right_matrix(trans_a, trans_b, alpha, beta, bias, seed):
    """With transA the batch is the last axis of the stored matrix: here that is rows x N."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(3, 5) if trans_b else (5, 3))
    shapes = {0: None, 1: (3,), 2: (1, 3), 3: ()}
    gemm = ["x", "w"] + (["c"] if bias else [])
    nodes = [
        node("Transpose" if trans_a else "Identity", ["input"], "x"),
        node("Gemm", gemm, transA=int(trans_a), transB=int(trans_b), alpha=alpha, beta=beta),
    ]
    weights = {"w": weight}
    if bias:
        weights["c"] = rng.normal(size=shapes[bias])
    network = assert_agrees(model(nodes, ["N", 5], weights), seed)
    assert _kinds(network) == [ops.Input, ops.Linear]


@EXAMPLES
@given(st.booleans(), st.booleans(), scalars, seeds)
def test_gemm_with_a_constant_left_matrix(trans_a, trans_b, alpha, seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(4, 3) if trans_a else (3, 4))
    gemm = node(
        "Gemm",
        ["w", "input", "c"],
        transA=int(trans_a),
        transB=int(trans_b),
        alpha=alpha,
        beta=2.0,
    )
    shape = [1, 4] if trans_b else [4, 2]
    bias = rng.normal(size=(3, 1))
    assert_agrees(model([gemm], shape, {"w": weight, "c": bias}), seed)


@EXAMPLES
@given(st.sampled_from([["N", 4], ["N", 3, 4], [1, 2, 3, 4], [4], [1, 4]]), sizes, seeds)
def test_matmul_with_a_constant_right(shape, out, seed):
    weight = np.random.default_rng(seed).normal(size=(4, out))
    assert_agrees(model([node("MatMul", ["input", "w"])], shape, {"w": weight}), seed)


@pytest.mark.parametrize(
    ("shape", "weight"),
    [
        (["N", 4, 3], (2, 4)),
        (["N", 2, 4, 3], (5, 4)),
        ([1, 4, 1], (2, 4)),
        ([4, 3], (2, 4)),
        ([4], (2, 4)),
        (["N", 4, 3], (4,)),
        (["N", 4, 3], (1, 2, 4)),
    ],
)
def test_matmul_with_a_constant_left(shape, weight):
    weights = {"w": np.random.default_rng(0).normal(size=weight)}
    assert_agrees(model([node("MatMul", ["w", "input"])], shape, weights))


@pytest.mark.parametrize("weight", [(4,), (1, 4, 2), (1, 1, 4, 2)])
def test_matmul_with_a_constant_of_another_rank(weight):
    weights = {"w": np.random.default_rng(0).normal(size=weight)}
    assert_agrees(model([node("MatMul", ["input", "w"])], [1, 3, 4], weights))


def test_matmul_with_a_column_input():
    """[1, 784, 1] networks: Flatten, or a product from the left."""
    weights = {"w": np.random.default_rng(0).normal(size=(3, 6)), "b": np.ones((3, 1))}
    nodes = [node("MatMul", ["w", "input"], "p"), node("Add", ["p", "b"])]
    network = assert_agrees(model(nodes, [1, 6, 1], weights))
    assert network.input_shape == (6, 1)


@EXAMPLES
@given(
    st.sampled_from(["Add", "Sub", "Mul", "Div"]),
    st.sampled_from([(), (1,), (4,), (3, 1), (3, 4), (1, 3, 4), (1, 1, 4), (2, 3, 4), (1, 2, 1)]),
    st.booleans(),
    st.sampled_from([["N", 2, 3, 4], [1, 1, 3, 4], [1, 3, 4], [1, 1, 3, 1]]),
    seeds,
)
def test_arithmetic_with_constants(op, shape, reverse, input_shape, seed):
    assume(not (reverse and op == "Div"))
    rng = np.random.default_rng(seed)
    constant = rng.uniform(0.5, 2, size=shape) * rng.choice([-1, 1], size=shape)
    names = ["c", "input"] if reverse else ["input", "c"]
    data = model([node(op, names)], input_shape, {"c": constant})
    assume(runs(data))
    assert_agrees(data, seed)


@EXAMPLES
@given(
    st.sampled_from(["Add", "Sub"]),
    st.sampled_from([(3, 4), (1, 4), (3, 1), (1, 1)]),
    st.sampled_from(["N", 1]),
    seeds,
)
def test_sums_of_two_values_broadcast(op, shape, batch, seed):
    """Two branches: one of the full shape, one reduced to a broadcastable one."""
    axes = np.array([i + 1 for i, d in enumerate(shape) if d == 1], dtype=np.int64)
    nodes = [node("Tanh", ["input"], "a"), node("Relu", ["input"], "r")]
    branch, weights = "r", {}
    if len(axes):
        nodes.append(node("ReduceSum", ["r", "axes"], "s"))
        branch, weights = "s", {"axes": axes}
    nodes.append(node(op, [branch, "a"]))
    assert_agrees(model(nodes, [batch, 3, 4], weights), seed)


def test_sum_of_several_terms():
    nodes = [node("Relu", ["input"], "a"), node("Sum", ["a", "c", "input", "a"])]
    assert_agrees(model(nodes, ["N", 3], {"c": np.array([1.0, 2.0, 3.0])}))


def test_product_of_two_values_is_refused():
    with pytest.raises(UnsupportedOpError, match=r"Mul_node.*depend on the network's input"):
        loads(model([node("Mul", ["input", "input"])], [1, 3]))
    with pytest.raises(UnsupportedOpError, match="attention"):
        loads(model([node("MatMul", ["input", "input"])], [1, 3, 3]))
    with pytest.raises(UnsupportedOpError, match="divides by a value"):
        loads(model([node("Div", ["c", "input"])], [1, 3], {"c": np.ones(3)}))
    with pytest.raises(UnsupportedOpError, match="divides by zero"):
        loads(model([node("Div", ["input", "c"])], [1, 3], {"c": np.zeros(3)}))


@EXAMPLES
@given(st.sampled_from([["N", 3], ["N", 3, 4], [1, 3, 2, 5]]), st.booleans(), seeds)
def test_batch_normalization(shape, convolution, seed):
    rng = np.random.default_rng(seed)
    weights = {
        "g": rng.normal(size=3),
        "b": rng.normal(size=3),
        "m": rng.normal(size=3),
        "v": rng.uniform(0.01, 2, size=3),
    }
    nodes = [node("BatchNormalization", ["x", "g", "b", "m", "v"], epsilon=0.01)]
    if convolution and len(shape) == 4:
        weights["k"] = rng.normal(size=(3, 3, 2, 2))
        nodes.insert(0, node("Conv", ["input", "k"], "x", pads=[1, 1, 0, 0]))
    else:
        nodes.insert(0, node("Identity", ["input"], "x"))
    network = assert_agrees(model(nodes, shape, weights), seed)
    if convolution and len(shape) == 4:
        assert _kinds(network) == [ops.Input, ops.Conv]


@EXAMPLES
@given(
    st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax"]),
    st.lists(st.integers(-3, 3), min_size=0, max_size=3, unique_by=lambda a: a % 4),
    st.booleans(),
    st.sampled_from([11, 13, 18]),
    seeds,
)
def test_reductions(op, axes, keep, opset, seed):
    assume(all(a % 4 for a in axes))
    as_input = opset >= (13 if op == "ReduceSum" else 18)
    names, weights, attributes = ["input"], {}, {"keepdims": int(keep)}
    if axes and as_input:
        names, weights = ["input", "axes"], {"axes": np.array(axes, dtype=np.int64)}
    elif axes:
        attributes["axes"] = axes
    data = model([node(op, names, **attributes)], [1, 2, 3, 4], weights, opset)
    assume(runs(data))
    assert_agrees(data, seed)


def test_reduction_of_a_free_batch_fixes_it():
    data = model([node("ReduceMean", ["input"], axes=[0], keepdims=1)], ["N", 3])
    network = assert_agrees(data)
    assert network.batch == 1
    assert "ReduceMean_node" in network.notes[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(bad):
    weight = np.ones((3, 3))
    weight[1, 1] = bad
    with pytest.raises(ModelError, match=r"tensor 'w'.*(NaN|infinity)"):
        loads(model([node("MatMul", ["input", "w"])], [1, 3], {"w": weight}))


def test_mismatched_matrix_is_refused():
    data = model([node("MatMul", ["input", "w"])], [1, 4], {"w": np.ones((3, 3))})
    with pytest.raises(UnsupportedOpError, match="meets a matrix of 3 columns"):
        loads(data)
