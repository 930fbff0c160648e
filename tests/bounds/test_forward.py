"""Forward planes hold at every sampled point of every box of a batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from closegap.bounds.forward import forward_activations
from closegap.bounds.interval import propagate
from closegap.bounds.regions import InputSet
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.testing import networks

MAKERS: dict[str, Callable[[np.random.Generator], Network]] = {
    "mlp": lambda rng: networks.random_mlp(rng, [4, 8, 7, 3]),
    "conv": networks.random_conv,
    "residual": networks.random_residual,
    "maxpool": networks.random_maxpool,
    "leaky": lambda rng: networks.random_leaky(rng, [4, 8, 7, 3]),
    "sigmoid": lambda rng: networks.random_sigmoid(rng, [4, 8, 7, 3]),
    "tanh": lambda rng: networks.random_tanh(rng, [4, 8, 7, 3]),
    "sign": lambda rng: networks.random_sign(rng, [4, 8, 7, 3]),
}


def boxes_of(network: Network, rng: np.random.Generator, count: int) -> tuple[InputSet, np.ndarray]:
    """Boxes of very different sizes that differ in some inputs only, and which those are."""
    free = np.sort(rng.permutation(network.input_size)[: min(4, network.input_size)])
    low = np.repeat(rng.uniform(-1, 1, (1, network.input_size)), count, axis=0)
    high = low.copy()
    low[:, free] = rng.uniform(-1, 1, (count, len(free)))
    width = 10 ** rng.uniform(-8, 0.5, (count, 1)) * rng.uniform(size=(count, len(free)))
    high[:, free] = low[:, free] + width * (rng.random((count, len(free))) > 0.1)
    shape = (count, *network.input_shape)
    region = InputSet(torch.as_tensor(low.reshape(shape)), torch.as_tensor(high.reshape(shape)))
    return region, free


@pytest.mark.parametrize("kind", MAKERS)
def test_every_value_is_inside(kind: str, rng: np.random.Generator) -> None:
    network = MAKERS[kind](rng)
    exact = TorchNetwork(network, dtype=torch.float64)
    region, free = boxes_of(network, rng, 40)
    found = forward_activations(exact, region, torch.as_tensor(free))
    for sample in range(60):
        share = torch.as_tensor(rng.uniform(size=region.lower.shape))
        share = share.round() if sample % 2 else share
        points = torch.minimum(region.lower + share * (region.upper - region.lower), region.upper)
        for index, value in enumerate(exact.values(points)):
            assert (value >= found.values[index].lower).all(), index
            assert (value <= found.values[index].upper).all(), index


@pytest.mark.parametrize("kind", MAKERS)
def test_never_looser_than_intervals(kind: str, rng: np.random.Generator) -> None:
    network = MAKERS[kind](rng)
    exact = TorchNetwork(network, dtype=torch.float64)
    region, free = boxes_of(network, rng, 8)
    found = forward_activations(exact, region, torch.as_tensor(free))
    interval = propagate(exact, region)
    assert set(found.activations) == set(network.pre_activations)
    for index, known in enumerate(interval):
        slack = 1e-9 * (1 + known.magnitude)
        assert (found.values[index].lower >= known.lower - slack).all()
        assert (found.values[index].upper <= known.upper + slack).all()


def test_affine_networks_are_bounded_exactly(rng: np.random.Generator) -> None:
    network = networks.random_mlp(rng, [4, 6, 3], activation="Identity")
    exact = TorchNetwork(network, dtype=torch.float64)
    region, free = boxes_of(network, rng, 5)
    found = forward_activations(exact, region, torch.as_tensor(free))
    corners = np.array(np.meshgrid(*[[0.0, 1.0]] * len(free))).reshape(len(free), -1).T
    outputs = []
    for corner in corners:
        point = region.lower.clone()
        low, high = region.lower[:, free], region.upper[:, free]
        point[:, free] = torch.where(torch.as_tensor(corner) > 0, high, low)
        outputs.append(exact(point))
    values = torch.stack(outputs)
    assert torch.allclose(found.values[-1].lower, values.amin(0), rtol=0, atol=1e-11)
    assert torch.allclose(found.values[-1].upper, values.amax(0), rtol=0, atol=1e-11)
