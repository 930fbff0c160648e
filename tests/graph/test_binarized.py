"""The exact form of binarized networks against float64 evaluation and rational arithmetic."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from closegap.frontend import load
from closegap.graph import ops
from closegap.graph.binarized.first_layer import FirstSigns, fixed_signs, sum_bounds
from closegap.graph.binarized.fold import folded
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.binarized.recognise import binarized_form, recognise
from closegap.graph.binarized.records import FirstLayer
from closegap.graph.network import Network, Node
from closegap.runtime.torch_network import TorchNetwork
from closegap.testing.networks import random_sign
from tiny_networks import network


def outputs(net: Network, inputs: np.ndarray) -> np.ndarray:
    twin = TorchNetwork(net, dtype=torch.float64)
    with torch.no_grad():
        return twin(twin.tensor(inputs)).numpy()


def signs(rng: np.random.Generator, *shape: int, zeros: float = 0.0) -> np.ndarray:
    weight = rng.choice([-1.0, 1.0], size=shape)
    return np.where(rng.random(shape) < zeros, 0.0, weight)


def dense_net(rng: np.random.Generator, *, zeros: float = 0.0, scaled: bool = False) -> Network:
    """Eight inputs, two sign layers of seven, batch normalisation of either direction."""
    nodes = [Node(ops.Input(), (), (8,))]
    for width in (7, 7):
        size = nodes[-1].shape[0]
        weight, bias = signs(rng, width, size, zeros=zeros), np.zeros(width)
        if scaled and len(nodes) > 1:
            weight = weight * rng.uniform(0.1, 2, size=(width, 1))
            bias = rng.normal(size=width)
        factor = rng.choice([-0.5, 0.25, 1.0, 0.0], size=width, p=[0.4, 0.3, 0.2, 0.1])
        offset = factor * rng.integers(-3, 4, size=width)
        for op in (ops.Linear(weight, bias), ops.Scale(factor), ops.Shift(offset), ops.Sign(1)):
            nodes.append(Node(op, (len(nodes) - 1,), (width,)))
    last = ops.Linear(rng.normal(size=(3, 7)), rng.normal(size=3))
    return network(*nodes, Node(last, (len(nodes) - 1,), (3,)))


def conv_net(rng: np.random.Generator) -> Network:
    """Padding on signs, pooling before scales of both directions, a transposed end."""
    windows = np.array(
        [
            c * 36 + (2 * i + a) * 6 + 2 * j + b
            for c in range(4)
            for i in range(3)
            for j in range(3)
            for a in (0, 1)
            for b in (0, 1)
        ]
    )
    scale = np.array([0.5, -0.5, -1.0, 0.25]).reshape(4, 1, 1)
    shift = np.array([0.5, 1.0, 3.0, -0.5]).reshape(4, 1, 1)
    first = ops.Conv(signs(rng, 3, 2, 3, 3), np.zeros(3), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    second = ops.Conv(signs(rng, 4, 3, 3, 3), np.zeros(4), (1, 1), (1, 1, 1, 1), (1, 1), 1)
    return network(
        Node(ops.Input(), (), (6, 6, 2)),
        Node(ops.Transpose((2, 0, 1)), (0,), (2, 6, 6)),
        Node(first, (1,), (3, 6, 6)),
        Node(ops.Sign(1), (2,), (3, 6, 6)),
        Node(second, (3,), (4, 6, 6)),
        Node(ops.Take(windows), (4,), (144,)),
        Node(ops.Reshape(), (5,), (4, 3, 3, 4)),
        Node(ops.Max(), (6,), (4, 3, 3)),
        Node(ops.Scale(scale), (7,), (4, 3, 3)),
        Node(ops.Shift(shift), (8,), (4, 3, 3)),
        Node(ops.Transpose((1, 2, 0)), (9,), (3, 3, 4)),
        Node(ops.Reshape(), (10,), (36,)),
        Node(ops.Sign(1), (11,), (36,)),
        Node(ops.Linear(signs(rng, 5, 36), np.zeros(5)), (12,), (5,)),
    )


def repeated_net(rng: np.random.Generator) -> Network:
    """Sums that read some of the signs several times."""
    head = dense_net(rng).nodes[:5]
    return network(
        *head,
        Node(ops.Take(rng.integers(0, 7, size=11)), (4,), (11,)),
        Node(ops.Linear(signs(rng, 6, 11), np.zeros(6)), (5,), (6,)),
        Node(ops.Sign(1), (6,), (6,)),
        Node(ops.Linear(rng.normal(size=(3, 6)), rng.normal(size=3)), (7,), (3,)),
    )


@pytest.mark.parametrize("make", [
    dense_net,
    repeated_net,
    lambda rng: dense_net(rng, zeros=0.3),
    lambda rng: dense_net(rng, scaled=True),
    conv_net,
    lambda rng: random_sign(rng, [6, 5, 9, 4, 3]),
])  # fmt: skip
def test_equals_floating_point(
    rng: np.random.Generator, make: Callable[[np.random.Generator], Network]
) -> None:
    for _ in range(5):
        net = make(rng)
        form = binarized_form(net)
        # Small integers tie often, and float64 adds them exactly.
        grid = rng.integers(-2, 3, size=(300, *net.input_shape)).astype(float)
        inputs = np.concatenate([grid, rng.normal(size=(200, *net.input_shape))])
        np.testing.assert_allclose(BinarizedForward(form)(inputs), outputs(net, inputs), atol=1e-12)


def test_ties_are_hit_and_count_as_plus_one() -> None:
    weight = np.array([[1.0, 1.0], [1.0, -1.0]])
    net = network(
        Node(ops.Input(), (), (2,)),
        Node(ops.Linear(weight, np.zeros(2)), (0,), (2,)),
        Node(ops.Sign(1), (1,), (2,)),
        Node(ops.Linear(weight, np.zeros(2)), (2,), (2,)),
        Node(ops.Scale(np.array([1.0, -0.5])), (3,), (2,)),
        Node(ops.Shift(np.array([-2.0, 0.0])), (4,), (2,)),
        Node(ops.Sign(1), (5,), (2,)),
        Node(ops.Linear(np.eye(2), np.zeros(2)), (6,), (2,)),
    )
    form = binarized_form(net)
    np.testing.assert_array_equal(form.hidden[0].thresholds.low, [[2], [0]])
    np.testing.assert_array_equal(form.hidden[0].thresholds.sense, [[1], [-1]])
    got = BinarizedForward(form)(np.array([[0.0, 0.0], [0.0, -0.0], [1.0, 2.0]]))
    # 0 and 0 tie in the first layer, a sum of 2 and one of 0 in the second.
    np.testing.assert_array_equal(got, [[1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])


def test_a_tie_that_float64_cannot_see_is_decided_exactly() -> None:
    # 1e16 + 1 - 1e16 is 1, which float64 loses in every order but one.
    weight = np.array([[1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])
    net = network(
        Node(ops.Input(), (), (3,)),
        Node(ops.Linear(weight, np.zeros(2)), (0,), (2,)),
        Node(ops.Sign(1), (1,), (2,)),
        Node(ops.Linear(np.eye(2), np.zeros(2)), (2,), (2,)),
    )
    layer = binarized_form(net).first
    got = FirstSigns(layer)(np.array([[1e16, 0.3, 1e16], [1e16, -0.3, 1e16], [1e16, 0.0, 1e16]]))
    np.testing.assert_array_equal(got, [[True, False], [False, True], [True, True]])


def rational_signs(layer: FirstLayer, point: np.ndarray) -> np.ndarray:
    """The first layer's signs at a point, by rational arithmetic alone."""
    assert not layer.steps and (layer.source >= 0).all()
    values = [Fraction(float(v)) for v in point[layer.source]]
    sums = [
        sum(
            (Fraction(w) * values[e] for e, w in zip(places, row, strict=True) if e >= 0),
            Fraction(),
        )
        for row in layer.patches.weight.tolist()
        for places in layer.patches.gather.tolist()
    ]
    rules = layer.thresholds
    met = np.zeros(rules.taken.shape, dtype=bool)
    for at in np.ndindex(met.shape):
        edge, signed = rules.exact[rules.which[at]], int(rules.sense[at]) * sums[rules.taken[at]]
        met[at] = rules.low[at] < 0 if edge is None else signed >= edge
    return rules.pooled(met[None])[0]


def test_first_signs_in_every_type_of_sum(rng: np.random.Generator) -> None:
    for make in (conv_net, dense_net, repeated_net):
        layer = binarized_form(make(rng)).first
        coarse = rng.integers(-3, 4, size=(6, int(layer.source.max()) + 1)) / 4
        # Steps of 2^-30 need float64; numbers on no step, bounds and rational arithmetic.
        for inputs in (
            coarse,
            coarse + 2.0**-30,
            coarse + 1e-17,
            coarse + rng.normal(size=coarse.shape),
        ):
            expected = np.stack([rational_signs(layer, point) for point in inputs])
            np.testing.assert_array_equal(FirstSigns(layer)(inputs), expected)


def test_inputs_that_vanish_on_a_grid_are_not_on_it() -> None:
    net = network(
        Node(ops.Input(), (), (3,)),
        Node(ops.Linear(np.array([[1.0, -1.0, -1.0]]), np.zeros(1)), (0,), (1,)),
        Node(ops.Sign(1), (1,), (1,)),
        Node(ops.Linear(np.ones((1, 1)), np.zeros(1)), (2,), (1,)),
    )
    signs_of = FirstSigns(binarized_form(net).first)
    for big in (1e30, 1e300):
        inputs = np.array([[big, big, 1e-300], [big, big, 0.0]])
        assert signs_of(inputs).tolist() == [[False], [True]]


def test_a_sum_that_float64_cannot_hold_has_no_fixed_sign() -> None:
    huge = np.full(2, 1e200)
    net = network(
        Node(ops.Input(), (), (2,)),
        Node(ops.Scale(huge), (0,), (2,)),
        Node(ops.Scale(huge), (1,), (2,)),
        Node(ops.Linear(np.array([[1.0, -1.0]]), np.zeros(1)), (2,), (1,)),
        Node(ops.Sign(1), (3,), (1,)),
        Node(ops.Linear(np.eye(1), np.zeros(1)), (4,), (1,)),
    )
    layer = binarized_form(net).first
    with np.errstate(over="ignore", invalid="ignore"):
        bounds = sum_bounds(layer, np.zeros(2), np.ones(2))
        assert fixed_signs(layer, bounds).tolist() == [0]
        inputs = np.array([[0.75, 0.25], [0.25, 0.75]])
        assert FirstSigns(layer)(inputs).tolist() == [[True], [False]]


def one_sum(*ops_before: ops.Op, weight: float) -> Network:
    """The sign of one sum of two inputs, and one that is always +1."""
    nodes = [Node(ops.Input(), (), (2,))]
    for op in (*ops_before, ops.Linear(np.full((2, 2), weight), np.zeros(2))):
        nodes.append(Node(op, (len(nodes) - 1,), (2,)))
    constant = ops.Scale(np.array([1.0, 0.0]))
    for op in (constant, ops.Sign(1), ops.Linear(np.eye(2), np.zeros(2))):
        nodes.append(Node(op, (len(nodes) - 1,), (2,)))
    return network(*nodes)


@pytest.mark.parametrize(("weight", "factor"), [(-1e-200, None), (-1.0, 1e-200), (-0.3, 1.0)])
def test_products_that_underflow_decide_nothing(weight: float, factor: float | None) -> None:
    before = () if factor is None else (ops.Scale(np.full(2, factor)),)
    layer = binarized_form(one_sum(*before, weight=weight)).first
    tiny = 1e-200 if weight != -0.3 else 5e-324
    got = FirstSigns(layer)(np.array([[0.0, 0.0], [0.0, tiny], [-tiny, 0.0]]))
    assert got.tolist() == [[True, True], [False, True], [True, True]]
    bounds = sum_bounds(layer, np.zeros(2), np.full(2, tiny))
    assert fixed_signs(layer, bounds).tolist() == [0, 1]


def test_a_constant_sign_stands_beside_sums_that_overflow() -> None:
    form = BinarizedForward(binarized_form(one_sum(weight=-1.5)))
    with np.errstate(over="ignore", invalid="ignore"):
        got = form(np.array([[1.7e308, 1.7e308], [-1.7e308, -1.7e308], [1.7e308, -1.7e308]]))
    assert got.tolist() == [[-1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    assert form(np.zeros((0, 2))).shape == (0, 2)


def test_thresholds_have_the_parity_of_the_fan_in(rng: np.random.Generator) -> None:
    layer = binarized_form(dense_net(rng, zeros=0.4)).hidden[0]
    finite = np.isfinite(layer.thresholds.low)
    excess = layer.thresholds.low[finite] - layer.fan_in[layer.thresholds.taken][finite]
    assert (excess % 2 == 0).all()


def test_a_threshold_is_the_exact_quotient(rng: np.random.Generator) -> None:
    factor, offset = 0.1, 0.7
    net = network(
        Node(ops.Input(), (), (2,)),
        Node(ops.Scale(np.array([factor])), (0,), (2,)),
        Node(ops.Shift(np.array([offset])), (1,), (2,)),
        Node(ops.Sign(1), (2,), (2,)),
        Node(ops.Linear(np.eye(2), np.zeros(2)), (3,), (2,)),
    )
    thresholds = binarized_form(net).first.thresholds
    exact = -Fraction(offset) / Fraction(factor)
    assert thresholds.exact == (exact,)
    assert Fraction(thresholds.low[0, 0]) < exact < Fraction(thresholds.high[0, 0])


@pytest.mark.parametrize("scale", [float(np.float32(0.3)), 2.0**-60, 3.0 * 2.0**40])
def test_ties_of_sums_that_float64_holds_are_ties(scale: float) -> None:
    """Scaled weights: every partial sum is exact, and so is the zero that four signs sum to."""
    weight = scale * np.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, 1.0]])
    net = network(
        Node(ops.Input(), (), (4,)),
        Node(ops.Sign(1), (0,), (4,)),
        Node(ops.Linear(weight, np.array([0.0, 2 * scale])), (1,), (2,)),
        Node(ops.Sign(1), (2,), (2,)),
        Node(ops.Linear(np.eye(2), np.zeros(2)), (3,), (2,)),
    )
    inputs = np.array(list(itertools.product([-1.0, 1.0], repeat=4)))
    sums = inputs @ np.sign(weight).T + np.array([0.0, 2.0])
    assert (sums == 0).any(axis=0).all()
    got = BinarizedForward(binarized_form(net))(inputs)
    np.testing.assert_array_equal(got, np.where(sums >= 0, 1.0, -1.0))
    np.testing.assert_array_equal(got, outputs(net, inputs))


def refusals(rng: np.random.Generator) -> dict[str, Network]:
    start = (
        Node(ops.Input(), (), (3,)),
        Node(ops.Linear(signs(rng, 3, 3), np.zeros(3)), (0,), (3,)),
    )
    sign, last = Node(ops.Sign(1), (1,), (3,)), ops.Linear(np.eye(3), np.zeros(3))
    several = ops.Linear(np.array([[1.0, 2.0, 1.0]] * 3), np.zeros(3))
    # At a sum of 1 the margin is 1e-17, which 0.1 * 1 - 0.1 does not show.
    near = ops.Shift(np.full(3, -np.nextafter(0.3, 1)))
    return {
        "no signs": network(*start),
        "is a Relu": network(*start, sign, Node(ops.Relu(), (2,), (3,))),
        "not all of one size": network(
            *start,
            sign,
            Node(several, (2,), (3,)),
            Node(ops.Sign(1), (3,), (3,)),
            Node(last, (4,), (3,)),
        ),
        "real": network(*start, Node(ops.Sign(0), (1,), (3,)), Node(last, (2,), (3,))),
        "two layers": network(*start, Node(last, (1,), (3,)), sign),
        "does not end": network(*start, sign),
        "one chain": network(*start, sign, Node(last, (2,), (3,)), Node(ops.Add(), (3, 2), (3,))),
        "beyond float64": network(
            Node(ops.Input(), (), (3,)),
            Node(ops.Scale(np.full(3, 1e-200)), (0,), (3,)),
            Node(ops.Scale(np.full(3, 1e-200)), (1,), (3,)),
            Node(ops.Shift(np.ones(3)), (2,), (3,)),
            Node(ops.Sign(1), (3,), (3,)),
            Node(last, (4,), (3,)),
        ),
        "rounding decides": network(
            *start,
            sign,
            Node(ops.Linear(0.1 * np.ones((3, 3)), np.zeros(3)), (2,), (3,)),
            Node(near, (3,), (3,)),
            Node(ops.Sign(1), (4,), (3,)),
            Node(last, (5,), (3,)),
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    "reason",
    ["no signs", "is a Relu", "not all of one size", "real", "two layers", "does not end",
     "one chain", "rounding decides", "beyond float64"],
)  # fmt: skip
def test_refused_with_the_reason(rng: np.random.Generator, reason: str) -> None:
    got = recognise(refusals(rng)[reason])
    assert isinstance(got, str) and reason in got


def test_bounds_and_fixed_signs_hold_at_samples(rng: np.random.Generator) -> None:
    for make in (dense_net, conv_net):
        layer = binarized_form(make(rng)).first
        size = int(layer.source.max()) + 1
        center = rng.normal(size=size)
        bounds = sum_bounds(layer, center - 0.2, center + 0.2)
        fixed = fixed_signs(layer, bounds)
        points = center + rng.choice([-0.2, 0.2, 0.1], size=(200, size))
        got = FirstSigns(layer)(points)
        assert (fixed == 0).any() and (fixed != 0).any()
        assert (got[:, fixed == 1]).all() and not got[:, fixed == -1].any()


@pytest.mark.parametrize(
    "make", [dense_net, lambda rng: dense_net(rng, zeros=0.3), conv_net, repeated_net]
)
def test_what_a_box_leaves_of_a_network_has_its_outputs_there(
    rng: np.random.Generator, make: Callable[[np.random.Generator], Network]
) -> None:
    smaller = 0
    for _ in range(4):
        form = binarized_form(make(rng))
        lower = rng.integers(-4, 5, size=int(form.first.source.max()) + 1) / 2
        upper = lower + rng.choice([0.0, 1.0], size=len(lower))
        small = folded(form, lower, upper, 1 << 20)
        assert small is not None
        inputs = lower + rng.choice([0.0, 0.5, 1.0], size=(200, len(lower))) * (upper - lower)
        both = BinarizedForward(small)(inputs), BinarizedForward(form)(inputs)
        np.testing.assert_allclose(*both, rtol=0, atol=1e-12)
        smaller += sum(small.widths) < sum(form.widths)
        assert folded(form, lower, upper, 1) is None
    assert smaller


@pytest.mark.parametrize("name", ["mnist_bnn", "small_bnn"])
def test_real_dense_networks(
    data_path: Callable[[str], Path], rng: np.random.Generator, name: str
) -> None:
    net = load(data_path(f"models/bnn/{name}.onnx"))
    inputs = rng.random(size=(5000, *net.input_shape)).astype(np.float32)
    inputs[::2] = np.rint(4 * inputs[::2]) / 4
    np.testing.assert_allclose(
        BinarizedForward(binarized_form(net))(inputs), outputs(net, inputs), atol=1e-9
    )


def test_real_convolutional_networks(
    data_path: Callable[[str], Path], rng: np.random.Generator
) -> None:
    folder = data_path("vnncomp/traffic_signs_recognition/onnx")
    for path in sorted(folder.glob("*.onnx.gz")):
        net = load(path)
        inputs = np.rint(255 * rng.random(size=(4, *net.input_shape)))
        np.testing.assert_allclose(
            BinarizedForward(binarized_form(net))(inputs), outputs(net, inputs), atol=1e-9
        )
