"""Fused networks compute the same; what would not be exact is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from closegap.graph import ops
from closegap.graph.fusion import least_size
from closegap.graph.network import Network, Node
from closegap.graph.transform import fuse_affine, max_to_relu
from closegap.runtime.torch_network import TorchNetwork
from closegap.testing.networks import random_maxpool, random_residual

PLAIN = {"onnx_bytes": b"", "digest": "", "batch": None}


def _chain(shape, steps):
    """A network of ops in a row; `steps` are (op, shape after it)."""
    nodes = [Node(ops.Input(), (), shape)]
    for op, after in steps:
        nodes.append(Node(op, (len(nodes) - 1,), after, type(op).__name__))
    return Network(nodes=tuple(nodes), **PLAIN)


def _values(network, inputs):
    own = TorchNetwork(network, dtype=torch.float64)
    return own(own.tensor(inputs)).numpy()


def _fused(network, rng, scale=1.0):
    """The fused network, after its outputs were compared with the original's."""
    fused = fuse_affine(network)
    inputs = scale * rng.normal(size=(5, *network.input_shape))
    before, after = _values(network, inputs), _values(fused, inputs)
    assert np.allclose(before, after, rtol=1e-10, atol=1e-10)
    assert fused.nodes[-1].shape == network.nodes[-1].shape
    return fused


def _kinds(network):
    return [type(n.op).__name__ for n in network.nodes[1:]]


def _linear(rng, n_in, n_out):
    return ops.Linear(rng.normal(size=(n_out, n_in)), rng.normal(size=n_out))


def _conv(rng, channels, out, *, pads=(0, 0, 0, 0), groups=1):
    weight = rng.normal(size=(out, channels // groups, 3, 3))
    return ops.Conv(weight, rng.normal(size=out), (1, 1), pads, (1, 1), groups)


def test_normalisation_batch_norm_and_dense_layers_become_linear(rng):
    shift = ops.Shift(rng.normal(size=(2, 1, 1)))
    scale = ops.Scale(rng.uniform(1, 2, size=(2, 1, 1)))
    network = _chain(
        (2, 3, 3),
        [
            (shift, (2, 3, 3)),
            (scale, (2, 3, 3)),
            (ops.Reshape(), (18,)),
            (_linear(rng, 18, 4), (4,)),
            (ops.Scale(rng.normal(size=4)), (4,)),
            (ops.Shift(rng.normal(size=4)), (4,)),
            (ops.Relu(), (4,)),
            (ops.Scale(rng.normal(size=4)), (4,)),
            (ops.Shift(np.array([0.5])), (4,)),
            (_linear(rng, 4, 3), (3,)),
        ],
    )
    assert _kinds(_fused(network, rng)) == ["Reshape", "Linear", "Relu", "Linear"]


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_around_convolutions(groups, rng):
    network = _chain(
        (4, 6, 6),
        [
            (ops.Scale(rng.normal(size=(4, 1, 1))), (4, 6, 6)),
            (ops.Shift(rng.normal(size=(4, 1, 1))), (4, 6, 6)),
            (_conv(rng, 4, 6, groups=groups), (6, 4, 4)),
            (ops.Scale(rng.normal(size=(6, 1, 1))), (6, 4, 4)),
            (ops.Shift(rng.normal(size=(6, 1, 1))), (6, 4, 4)),
        ],
    )
    assert _kinds(_fused(network, rng)) == ["Conv"]


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_around_transposed_convolutions(groups, rng):
    weight = rng.normal(size=(4, 3, 2, 2))
    deconv = ops.ConvTranspose(
        weight, rng.normal(size=3 * groups), (2, 2), (0, 0, 0, 0), (0, 0), (1, 1), groups
    )
    out = (3 * groups, 6, 6)
    network = _chain(
        (4, 3, 3),
        [
            (ops.Scale(rng.normal(size=(4, 1, 1))), (4, 3, 3)),
            (deconv, out),
            (ops.Scale(rng.normal(size=(3 * groups, 1, 1))), out),
            (ops.Shift(rng.normal(size=(3 * groups, 1, 1))), out),
        ],
    )
    assert _kinds(_fused(network, rng)) == ["ConvTranspose"]


def test_a_shift_before_a_padded_convolution_stays(rng):
    network = _chain(
        (2, 4, 4),
        [
            (ops.Shift(rng.normal(size=(2, 1, 1))), (2, 4, 4)),
            (ops.Scale(rng.normal(size=(2, 1, 1))), (2, 4, 4)),
            (_conv(rng, 2, 3, pads=(1, 1, 1, 1)), (3, 4, 4)),
        ],
    )
    assert _kinds(_fused(network, rng)) == ["Shift", "Conv"]


def test_scales_that_vary_over_space_stay(rng):
    network = _chain(
        (2, 4, 4),
        [
            (_conv(rng, 2, 3, pads=(1, 1, 1, 1)), (3, 4, 4)),
            (ops.Scale(rng.normal(size=(3, 4, 4))), (3, 4, 4)),
        ],
    )
    assert _kinds(_fused(network, rng)) == ["Conv", "Scale"]


def test_padding_goes_into_the_convolution(rng):
    network = _chain(
        (2, 4, 4),
        [
            (ops.Pad(((0, 0), (1, 2), (0, 1))), (2, 7, 5)),
            (_conv(rng, 2, 3, pads=(1, 0, 0, 0)), (3, 6, 3)),
        ],
    )
    fused = _fused(network, rng)
    assert _kinds(fused) == ["Conv"]
    assert fused.nodes[1].op.pads == (2, 0, 2, 1)
    channels = _chain(
        (2, 4, 4),
        [(ops.Pad(((1, 0), (0, 0), (0, 0))), (3, 4, 4)), (_conv(rng, 3, 1), (1, 2, 2))],
    )
    assert _kinds(_fused(channels, rng)) == ["Pad", "Conv"]


def test_linear_ops_merge_only_where_that_saves_weights(rng):
    narrow = _chain((2,), [(_linear(rng, 2, 50), (50,)), (_linear(rng, 50, 60), (60,))])
    assert _kinds(_fused(narrow, rng)) == ["Linear"]
    bottleneck = _chain((50,), [(_linear(rng, 50, 2), (2,)), (_linear(rng, 2, 50), (50,))])
    assert _kinds(_fused(bottleneck, rng)) == ["Linear", "Linear"]


def test_whole_number_weights_are_not_scaled(rng):
    """Ties of a binarized layer must break as in the file."""
    signs = ops.Linear(rng.choice([-1.0, 1.0], size=(4, 6)), np.zeros(4))
    network = _chain(
        (6,),
        [
            (ops.Scale(rng.normal(size=6)), (6,)),
            (signs, (4,)),
            (ops.Shift(np.ones(4)), (4,)),
            (ops.Scale(rng.normal(size=4)), (4,)),
        ],
    )
    fused = _fused(network, rng)
    assert _kinds(fused) == ["Scale", "Linear", "Scale"]
    assert set(np.unique(fused.nodes[2].op.weight)) == {-1.0, 1.0}


def test_scale_behind_a_reshaped_linear_op(rng):
    network = _chain(
        (3,),
        [
            (_linear(rng, 3, 8), (8,)),
            (ops.Reshape(), (2, 2, 2)),
            (ops.Scale(rng.normal(size=(2, 1, 1))), (2, 2, 2)),
            (ops.Shift(rng.normal(size=(2, 1, 1))), (2, 2, 2)),
        ],
    )
    assert _kinds(_fused(network, rng)) == ["Linear", "Reshape"]


def test_a_value_read_twice_is_not_merged(rng):
    """The shift's input is needed by the sum as it is."""
    linear = _linear(rng, 3, 3)
    nodes = (
        Node(ops.Input(), (), (3,)),
        Node(linear, (0,), (3,)),
        Node(ops.Shift(np.ones(3)), (1,), (3,)),
        Node(ops.Add(), (1, 2), (3,)),
    )
    assert _kinds(_fused(Network(nodes=nodes, **PLAIN), rng)) == ["Linear", "Shift", "Add"]


def test_ops_that_do_nothing_vanish(rng):
    network = _chain(
        (2, 3),
        [
            (ops.Reshape(), (6,)),
            (ops.Reshape(), (2, 3)),
            (ops.Scale(np.ones((1, 1))), (2, 3)),
            (ops.Shift(np.zeros((1, 3))), (2, 3)),
            (ops.Transpose((1, 0)), (3, 2)),
            (ops.Relu(), (3, 2)),
            (ops.Transpose((1, 0)), (2, 3)),
            (ops.Relu(), (2, 3)),
            (ops.Reshape(), (6,)),
            (ops.Take(np.arange(6)), (6,)),
        ],
    )
    assert _kinds(_fused(network, rng)) == ["Relu", "Reshape"]


def test_a_network_that_only_renames_its_input(rng):
    network = _chain((2, 3), [(ops.Reshape(), (6,)), (ops.Reshape(), (2, 3))])
    fused = _fused(network, rng)
    assert fused.nodes[-1].shape == (2, 3)


def test_selections_of_selections_are_one(rng):
    first, second = rng.integers(0, 6, size=8), rng.integers(0, 8, size=5)
    network = _chain((2, 3), [(ops.Take(first), (8,)), (ops.Take(second), (5,))])
    assert _kinds(_fused(network, rng)) == ["Take"]


def test_residual_networks_keep_their_sum(rng):
    network = random_residual(rng)
    assert _kinds(network).count("Add") == 1
    _fused(network, rng)


def _any_chain(rng, choices):
    """A row of ops on nine numbers, some of which merge."""
    makers = {
        "linear": lambda: (_linear(rng, 9, 9), (9,)),
        "integral": lambda: (ops.Linear(rng.choice([-1.0, 1.0], size=(9, 9)), np.zeros(9)), (9,)),
        "scale": lambda: (ops.Scale(rng.normal(size=9)), (9,)),
        "shift": lambda: (ops.Shift(rng.normal(size=1)), (9,)),
        "take": lambda: (ops.Take(rng.integers(0, 9, size=9)), (9,)),
        "relu": lambda: (ops.Relu(), (9,)),
        "sign": lambda: (ops.Sign(int(rng.integers(0, 2))), (9,)),
        "image": lambda: (ops.Reshape(), (1, 3, 3)),
    }
    on_image = {
        "conv": lambda: (_conv(rng, 1, 1, pads=(1, 1, 1, 1)), (1, 3, 3)),
        "scale": lambda: (ops.Scale(rng.normal(size=(1, 3, 1))), (1, 3, 3)),
        "shift": lambda: (ops.Shift(rng.normal(size=(1, 1, 1))), (1, 3, 3)),
        "transpose": lambda: (ops.Transpose((0, 2, 1)), (1, 3, 3)),
        "tanh": lambda: (ops.Tanh(), (1, 3, 3)),
        "flat": lambda: (ops.Reshape(), (9,)),
    }
    steps, shape = [], (9,)
    for choice in choices:
        table = makers if shape == (9,) else on_image
        op, shape = table[sorted(table)[choice % len(table)]]()
        steps.append((op, shape))
    return _chain((9,), steps)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 23), min_size=1, max_size=9), st.integers(0, 2**16))
def test_any_chain_computes_the_same_and_is_not_longer(choices, seed):
    rng = np.random.default_rng(seed)
    network = _any_chain(rng, choices)
    fused = fuse_affine(network)
    assert len(fused.nodes) <= len(network.nodes)
    inputs = rng.normal(size=(6, 9))
    before, after = _values(network, inputs), _values(fused, inputs)
    assert np.allclose(before, after, rtol=1e-8, atol=1e-8)
    again = fuse_affine(fused)
    assert _kinds(again) == _kinds(fused)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 9])
def test_maxima_become_relus(width, rng):
    network = _chain(
        (3, width),
        [(ops.Tanh(), (3, width)), (ops.Max(), (3,)), (_linear(rng, 3, 2), (2,))],
    )
    relus = max_to_relu(network)
    assert not any(isinstance(n.op, ops.Max) for n in relus.nodes)
    inputs = 5 * rng.normal(size=(50, 3, width))
    assert np.allclose(_values(network, inputs), _values(relus, inputs), rtol=1e-12, atol=1e-12)
    neurons = [n.size for n in relus.nodes if isinstance(n.op, ops.Relu)]
    assert sum(neurons) == 3 * (width - 1)
    assert len(neurons) == int(np.ceil(np.log2(width)))


def test_max_pools_become_relus(rng):
    network = random_maxpool(rng)
    relus = max_to_relu(network)
    assert not any(isinstance(n.op, ops.Max) for n in relus.nodes)
    inputs = rng.normal(size=(30, *network.input_shape))
    assert np.allclose(_values(network, inputs), _values(relus, inputs), rtol=1e-12, atol=1e-12)
    assert relus.digest == network.digest


def test_networks_without_maxima_come_back_as_they_are(rng):
    network = random_residual(rng)
    assert max_to_relu(network) is network


def test_a_network_whose_first_node_is_no_input_is_refused():
    with pytest.raises(ValueError, match="must be its input"):
        Network(nodes=(Node(ops.Relu(), (), (1,)),), **PLAIN)
    network = _chain((2,), [(ops.Relu(), (2,))])
    with pytest.raises(ValueError, match="comes before one of its inputs"):
        replace(network, nodes=(network.nodes[0], Node(ops.Relu(), (1,), (2,))))


def test_least_sizes_are_of_all_numbers_but_zero() -> None:
    assert least_size(ops.LeakyRelu(1e-300)) == 1e-300
    assert least_size(ops.Scale(np.array([0.0, -0.5, 3.0]))) == 0.5
    assert least_size(ops.Relu()) == 1.0
