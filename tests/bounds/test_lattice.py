"""Planes of lattices hold at sampled points, and nothing is taken for a lattice that is none."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from closegap.bounds import lattice as lattice_module
from closegap.bounds.boxes import box_chain
from closegap.bounds.lattice import Lattice, lattice
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.testing import networks

SHAPES = {"even": (2, 4, 4, 1), "odd": (3, 3, 5, 2), "small": (1, 2, 2, 3), "wide": (2, 2, 17, 1)}
SAMPLES = 40


def made(network: Network, fixed: int = 0) -> Lattice | None:
    """Over [-1, 1], with the first inputs fixed."""
    lower = -torch.ones(network.input_size, dtype=torch.float64)
    lower[:fixed] = 0.3
    upper = lower.abs()
    return lattice(network, lower, upper, (upper > lower).nonzero()[:, 0])


def random(rng: np.random.Generator, shape: str) -> Network:
    inputs, groups, pieces, outputs = SHAPES[shape]
    return networks.random_lattice(rng, inputs, groups=groups, pieces=pieces, outputs=outputs)


def bounded(found: Lattice, lower: torch.Tensor, upper: torch.Tensor, rows: torch.Tensor):
    return found.bound(lower, upper, rows, torch.zeros(len(lower), 0, dtype=torch.int8))


@pytest.mark.parametrize(("shape", "fixed"), [*product(SHAPES, [0]), ("odd", 1)])
def test_planes_hold(shape: str, fixed: int, rng: np.random.Generator) -> None:
    network = random(rng, shape)
    found, exact = made(network, fixed), TorchNetwork(network, dtype=torch.float64)
    assert found is not None
    free = network.input_size - fixed
    low = torch.as_tensor(rng.uniform(-1, 1, (50, free)))
    width = torch.as_tensor(10 ** rng.uniform(-6, 0.3, (50, 1)))
    high = (low + width).clamp(max=1)
    rows = torch.as_tensor(rng.normal(size=(4, network.output_size)))
    planes = bounded(found, low, high, rows)
    for _ in range(SAMPLES):
        share = torch.as_tensor(rng.uniform(size=low.shape))
        inside = torch.minimum(low + share.round() * (high - low), high)
        points = torch.cat([torch.full((50, fixed), 0.3, dtype=torch.float64), inside], dim=1)
        outputs = exact(points)
        assert torch.allclose(outputs, found.values(inside), rtol=0, atol=1e-12)
        below = (planes.planes * inside[:, None]).sum(2) + planes.constant - planes.loss
        assert (outputs @ rows.T >= below).all()


def test_tight_where_boxes_are_small(rng: np.random.Generator) -> None:
    found = made(random(rng, "even"))
    assert found is not None
    low = torch.as_tensor(rng.uniform(-1, 1, (50, 2)))
    rows = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    planes = bounded(found, low, low + 1e-9, rows)
    below = (planes.planes * low[:, None]).sum(2) + planes.constant
    assert torch.allclose(found.values(low) @ rows.T, below, rtol=0, atol=1e-7)


def test_tighter_than_the_chain_of_relus(rng: np.random.Generator) -> None:
    network = random(rng, "even")
    found, exact = made(network), TorchNetwork(network, dtype=torch.float64)
    lower, upper = torch.full((1, 2), -1.0).double(), torch.full((1, 2), 1.0).double()
    chain = box_chain(exact, lower[0], upper[0], torch.arange(2))
    assert found is not None
    assert chain is not None
    rows = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    known = torch.zeros(1, chain.signs, dtype=torch.int8)
    least = [
        p.constant - p.planes.abs().sum(2)
        for p in (bounded(found, lower, upper, rows), chain.bound(lower, upper, rows, known))
    ]
    assert least[0].sum() > least[1].sum()


def test_small_parts_change_nothing(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    network = random(rng, "odd")
    low = torch.as_tensor(rng.uniform(-1, 0, (9, 3)))
    rows = torch.eye(2, dtype=torch.float64)
    results = []
    for entries in (lattice_module._LEVEL_ENTRIES, 1):
        monkeypatch.setattr(lattice_module, "_LEVEL_ENTRIES", entries)
        found = made(network)
        assert found is not None
        results.append(bounded(found, low, low + 1, rows))
    assert torch.allclose(results[0].planes, results[1].planes, rtol=0, atol=1e-12)
    assert torch.allclose(results[0].constant, results[1].constant, rtol=0, atol=1e-12)


def changed(network: Network, dense: int, entry: tuple[int, int], value: float) -> Network:
    """With one weight of one dense layer replaced."""
    places = [i for i, node in enumerate(network.nodes) if isinstance(node.op, ops.Linear)]
    node = network.nodes[places[dense]]
    weight = node.op.weight.copy()
    weight[entry] = value
    nodes = list(network.nodes)
    nodes[places[dense]] = replace(node, op=replace(node.op, weight=weight))
    return replace(network, nodes=tuple(nodes))


@pytest.mark.parametrize(
    ("dense", "entry", "value"),
    [
        (0, (0, 0), 0.7),  # a pair is no longer opposite
        (1, (0, 0), 0.3),  # a reader's product may be rounded
        (1, (0, 0), 1.0),  # a pair is read neither as z nor as |z|
        (1, (0, 5), 0.5),  # an output reads half of another pair
        (2, (0, 0), 3.0),
    ],
)
def test_other_networks_are_no_lattices(
    dense: int, entry: tuple[int, int], value: float, rng: np.random.Generator
) -> None:
    network = random(rng, "even")
    assert made(network) is not None
    assert made(changed(network, dense, entry, value)) is None


def test_rounded_sums_are_no_lattice(rng: np.random.Generator) -> None:
    network = random(rng, "small")
    for row, sign in ((0, 1), (1, -1)):
        network = changed(network, 0, (row, 0), sign * 1e-30)
    assert made(network) is None


@pytest.mark.parametrize("sizes", [[2, 4, 1], [3, 8, 6, 4, 2], [2, 3]])
def test_random_chains_are_no_lattices(sizes: list[int], rng: np.random.Generator) -> None:
    assert made(networks.random_mlp(rng, sizes)) is None
