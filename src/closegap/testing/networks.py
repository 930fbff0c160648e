"""Small random networks for tests, built as real ONNX models and read by the front end.

Every function takes the generator first and is a pure function of it: the same generator state
gives the same network. The last layer has three outputs unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from closegap.frontend import loads
from closegap.graph.network import Network

__all__ = [
    "onnx_model",
    "random_conv",
    "random_lattice",
    "random_leaky",
    "random_maxpool",
    "random_mlp",
    "random_pooled",
    "random_residual",
    "random_sigmoid",
    "random_sign",
    "random_tanh",
]

_OUTPUTS = 3


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[Any]],
    input_shape: Sequence[int | str],
    *,
    output: str = "output",
    opset: int = 17,
) -> bytes:
    """A serialized float32 ONNX model with input `input` and one output.

    Args:
        nodes: in topological order.
        weights: initializers by name; floating ones are stored as float32.
        input_shape: batch dimension first, which may be a name.
        output: name of the output value.
        opset: version of the operator set.
    """
    tensors = [
        numpy_helper.from_array(a.astype(np.float32) if a.dtype.kind == "f" else a, name)
        for name, a in weights.items()
    ]
    graph = helper.make_graph(
        list(nodes),
        "network",
        [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, list(input_shape))],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return bytes(model.SerializeToString())


def random_mlp(rng: Generator, sizes: Sequence[int], *, activation: str = "Relu") -> Network:
    """Fully connected layers of the given widths with `activation` between them.

    Args:
        rng: source of the weights.
        sizes: input, hidden and output widths; at least two numbers.
        activation: an elementwise ONNX operator without attributes.
    """
    return _chain(rng, sizes, activation)


def random_conv(rng: Generator, *, channels: int = 1, side: int = 6) -> Network:
    """Two convolutions (stride 2 with padding, then stride 1) and two dense layers, with ReLUs."""
    nodes = [
        helper.make_node("Conv", ["input", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Flatten", ["r1"], ["f"]),
    ]
    inner = (side - 1) // 2
    weights = {
        **_kernel(rng, "0", (3, channels, 3, 3)),
        **_kernel(rng, "1", (2, 3, 2, 2)),
    }
    return _with_head(rng, nodes, weights, 2 * inner * inner, ["N", channels, side, side])


def random_residual(rng: Generator, *, side: int = 4) -> Network:
    """A residual block: a convolution added to the ReLU of another, then a dense layer."""
    nodes = [
        helper.make_node("Conv", ["input", "w0", "b0"], ["c0"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c1", "r0"], ["s"]),
        helper.make_node("Relu", ["s"], ["r1"]),
        helper.make_node("Flatten", ["r1"], ["f"]),
    ]
    weights = {**_kernel(rng, "0", (2, 1, 3, 3)), **_kernel(rng, "1", (2, 2, 3, 3))}
    return _with_head(rng, nodes, weights, 2 * side * side, ["N", 1, side, side])


def random_maxpool(rng: Generator, *, side: int = 6) -> Network:
    """Convolution, ReLU, overlapping 3 x 3 max pool of stride 2 with padding, dense layers."""
    nodes = [
        helper.make_node("Conv", ["input", "w0", "b0"], ["c0"]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node(
            "MaxPool", ["r0"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
        helper.make_node("Flatten", ["p"], ["f"]),
    ]
    pooled = (side - 2) // 2 + 1
    weights = _kernel(rng, "0", (2, 1, 2, 2))
    return _with_head(rng, nodes, weights, 2 * pooled * pooled, ["N", 1, side, side])


def random_pooled(rng: Generator, *, hidden: int = 3) -> Network:
    """A convolution of two channels over 3 x 3 inputs, a max pool of each, two dense layers."""
    weights = {
        "w": rng.normal(size=(2, 1, 2, 2)),
        "b": rng.normal(size=2),
        "w0": rng.normal(size=(hidden, 2)),
        "b0": rng.normal(size=hidden),
        "w1": rng.normal(size=(_OUTPUTS, hidden)),
        "b1": rng.normal(size=_OUTPUTS),
    }
    nodes = [
        helper.make_node("Conv", ["input", "w", "b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w0", "b0"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w1", "b1"], ["output"], transB=1),
    ]
    return _read(nodes, weights, ["N", 1, 3, 3], "random pooled network")


def random_leaky(rng: Generator, sizes: Sequence[int], *, slope: float = 0.1) -> Network:
    """Fully connected layers with LeakyReLUs between them."""
    return _chain(rng, sizes, "LeakyRelu", alpha=slope)


def random_sigmoid(rng: Generator, sizes: Sequence[int]) -> Network:
    """Fully connected layers with sigmoids between them."""
    return random_mlp(rng, sizes, activation="Sigmoid")


def random_tanh(rng: Generator, sizes: Sequence[int]) -> Network:
    """Fully connected layers with hyperbolic tangents between them."""
    return random_mlp(rng, sizes, activation="Tanh")


def random_sign(rng: Generator, sizes: Sequence[int]) -> Network:
    """A binarized network: weights of +-1, thresholds, and signs with `sign(0) = +1`.

    The sign is exported as frameworks do: Sign, Add 0.1, Sign.
    """
    nodes = []
    weights: dict[str, NDArray[Any]] = {"tenth": np.array(0.1)}
    value = "input"
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        weights[f"w{layer}"] = rng.choice([-1.0, 1.0], size=(n_in, n_out))
        weights[f"b{layer}"] = rng.uniform(-1, 1, size=n_out)
        last = layer == len(sizes) - 2
        pre = "output" if last else f"pre{layer}"
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"product{layer}"]))
        nodes.append(helper.make_node("Add", [f"product{layer}", f"b{layer}"], [pre]))
        if not last:
            nodes.append(helper.make_node("Sign", [pre], [f"sign{layer}"]))
            nodes.append(helper.make_node("Add", [f"sign{layer}", "tenth"], [f"moved{layer}"]))
            nodes.append(helper.make_node("Sign", [f"moved{layer}"], [f"post{layer}"]))
        value = f"post{layer}"
    return _read(nodes, weights, ["N", sizes[0]], f"random binarized network {list(sizes)}")


def random_lattice(
    rng: Generator, inputs: int, *, groups: int = 3, pieces: int = 5, outputs: int = 1
) -> Network:
    """The greatest over groups of the least of affine pieces, as trees of two written with ReLUs.

    Args:
        rng: source of the pieces.
        inputs: how many.
        groups: of each output, at least two.
        pieces: in each group, at least two.
        outputs: how many, each with pieces of its own.
    """
    planes = rng.normal(size=(outputs * groups * pieces, inputs))
    offsets = rng.normal(size=len(planes))
    dense: list[NDArray[np.float64]] = []
    for blocks, width, kind in ((outputs * groups, pieces, -1.0), (outputs, groups, 1.0)):
        while width > 1:
            split, joined = _pairwise(width, kind)
            dense += [_repeated(split, blocks), _repeated(joined, blocks)]
            width = len(joined)
    layers = [(matrix, np.zeros(len(matrix))) for matrix in dense]
    layers[0] = (dense[0] @ planes, dense[0] @ offsets)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.float64]] = {}
    value = "input"
    for place, (matrix, bias) in enumerate(layers):
        post = f"value{place}" if place < len(layers) - 1 else "output"
        pre = f"pre{place}" if place % 2 == 0 else post
        weights[f"w{place}"], weights[f"b{place}"] = matrix, bias
        nodes.append(helper.make_node("Gemm", [value, f"w{place}", f"b{place}"], [pre], transB=1))
        if pre != post:
            nodes.append(helper.make_node("Relu", [pre], [post]))
        value = post
    return _read(nodes, weights, ["N", inputs], f"random lattice of {len(planes)} pieces")


def _repeated(matrix: NDArray[np.float64], blocks: int) -> NDArray[np.float64]:
    return np.asarray(np.kron(np.eye(blocks), matrix), dtype=np.float64)


def _pairwise(width: int, kind: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights before and behind the ReLUs that join neighbours by maxima (1) or minima (-1)."""
    pairs = [(i, i + 1) for i in range(0, width - 1, 2)]
    pairs += [(width - 2, width - 1)] if width % 2 else []
    split, joined = np.zeros((4 * len(pairs), width)), np.zeros((len(pairs), 4 * len(pairs)))
    for row, (one, two) in enumerate(pairs):
        split[4 * row : 4 * row + 4, one] = [1, -1, -1, 1]
        split[4 * row : 4 * row + 4, two] = [1, -1, 1, -1]
        joined[row, 4 * row : 4 * row + 4] = [0.5, -0.5, 0.5 * kind, 0.5 * kind]
    return split, joined


def _chain(rng: Generator, sizes: Sequence[int], activation: str, **attributes: Any) -> Network:
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, NDArray[np.float64]] = {}
    value = "input"
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        last = layer == len(sizes) - 2
        pre, post = "output" if last else f"pre{layer}", f"post{layer}"
        dense, parameters = _dense(rng, f"fc{layer}", value, pre, (n_in, n_out))
        nodes.append(dense)
        weights.update(parameters)
        if not last:
            nodes.append(helper.make_node(activation, [pre], [post], **attributes))
        value = post
    return _read(nodes, weights, ["N", sizes[0]], f"random {activation} network {list(sizes)}")


def _read(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, NDArray[Any]],
    input_shape: Sequence[int | str],
    source: str,
) -> Network:
    return loads(onnx_model(nodes, weights, input_shape), source)


def _dense(
    rng: Generator, name: str, value: str, output: str, sizes: tuple[int, int]
) -> tuple[onnx.NodeProto, dict[str, NDArray[np.float64]]]:
    n_in, n_out = sizes
    node = helper.make_node("Gemm", [value, f"{name}.w", f"{name}.b"], [output], transB=1)
    weight = rng.normal(size=(n_out, n_in)) * np.sqrt(2.0 / n_in)
    return node, {f"{name}.w": weight, f"{name}.b": rng.normal(size=n_out) * 0.2}


def _kernel(
    rng: Generator, suffix: str, shape: tuple[int, int, int, int]
) -> dict[str, NDArray[np.float64]]:
    fan_in = np.prod(shape[1:])
    weight = rng.normal(size=shape) * np.sqrt(2.0 / fan_in)
    return {f"w{suffix}": weight, f"b{suffix}": rng.normal(size=shape[0]) * 0.2}


def _with_head(
    rng: Generator,
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[np.float64]],
    features: int,
    input_shape: Sequence[int | str],
) -> Network:
    """Two dense layers behind the flattened features `f`."""
    hidden, hidden_weights = _dense(rng, "fc0", "f", "h", (features, 6))
    last, last_weights = _dense(rng, "fc1", "a", "output", (6, _OUTPUTS))
    chain = [*nodes, hidden, helper.make_node("Relu", ["h"], ["a"]), last]
    return _read(
        chain, {**weights, **hidden_weights, **last_weights}, input_shape, "random network"
    )
