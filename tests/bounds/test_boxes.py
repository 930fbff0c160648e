"""Planes of chains hold at every sampled point of every box, whatever is known before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from closegap.bounds import boxes
from closegap.bounds import chain as chain_module
from closegap.bounds.boxes import BoxChain, BoxPlanes, box_chain
from closegap.bounds.forward import forward_activations
from closegap.bounds.intermediate import bound_activations
from closegap.bounds.regions import InputSet
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.runtime.torch_network import TorchNetwork
from closegap.testing import networks

SIZES = {"deep": [4, 8, 7, 6, 3], "shallow": [3, 5, 2], "wide": [2, 40, 3], "one": [3, 1, 1, 1]}
SAMPLES = 40


def made(network: Network, fixed: int = 0) -> tuple[BoxChain, TorchNetwork, torch.Tensor]:
    """The chain over [-1, 1] with the first inputs fixed, and which inputs are free."""
    exact = TorchNetwork(network, dtype=torch.float64)
    lower = -torch.ones(network.input_size, dtype=torch.float64)
    lower[:fixed] = 0.3
    upper = lower.abs()
    free = (upper > lower).nonzero()[:, 0]
    chain = box_chain(exact, lower, upper, free)
    assert chain is not None
    return chain, exact, free


def some_boxes(
    rng: np.random.Generator, count: int, free: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of very different sizes inside [-1, 1]."""
    low = rng.uniform(-1, 1, (count, free))
    width = 10 ** rng.uniform(-6, 0.3, (count, 1)) * rng.uniform(size=(count, free))
    return torch.as_tensor(low), torch.as_tensor(np.minimum(low + width, 1))


def points_of(
    rng: np.random.Generator, lower: torch.Tensor, upper: torch.Tensor, fixed: int
) -> torch.Tensor:
    """A point of each box, often a corner, with the fixed inputs before it."""
    share = torch.as_tensor(rng.uniform(size=lower.shape))
    share = share.round() if rng.random() < 0.5 else share
    inside = torch.minimum(lower + share * (upper - lower), upper)
    return torch.cat([torch.full((len(lower), fixed), 0.3, dtype=torch.float64), inside], dim=1)


def bounded(
    chain: BoxChain, lower: torch.Tensor, upper: torch.Tensor, rows: torch.Tensor
) -> BoxPlanes:
    known = torch.zeros(len(lower), chain.signs, dtype=torch.int8)
    return chain.bound(lower, upper, rows, known)


def check(chain: BoxChain, exact: TorchNetwork, rng: np.random.Generator, fixed: int) -> None:
    """Planes, signs and inherited signs against sampled points."""
    graph = exact.network
    lower, upper = some_boxes(rng, 30, graph.input_size - fixed)
    rows = torch.as_tensor(rng.normal(size=(4, graph.output_size)))
    outer = bounded(chain, lower, upper, rows)
    half = (lower + upper) / 2
    inner = chain.bound(lower, half, rows, outer.signs)
    for found, high in ((outer, upper), (inner, half)):
        for _ in range(SAMPLES):
            points = points_of(rng, lower, high, fixed)
            values = exact.values(points.reshape(-1, *graph.input_shape))
            below = (found.planes * points[:, None, fixed:]).sum(2) + found.constant - found.loss
            assert (values[-1].flatten(1) @ rows.T >= below).all()
            if chain.signs:
                hidden = torch.cat([values[i].flatten(1) for i in graph.pre_activations], dim=1)
                assert (hidden[found.signs > 0] >= 0).all()
                assert (hidden[found.signs < 0] <= 0).all()
    assert (inner.signs[outer.signs != 0] != 0).all()
    assert (outer.blame >= 0).all()


@pytest.mark.parametrize("fixed", [0, 1])
@pytest.mark.parametrize("sizes", SIZES)
def test_planes_hold(sizes: str, fixed: int, rng: np.random.Generator) -> None:
    chain, exact, _ = made(networks.random_mlp(rng, SIZES[sizes]), fixed)
    check(chain, exact, rng, fixed)


@pytest.fixture
def sparse_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "_SPARSE_ENTRIES", 0)
    monkeypatch.setattr(chain_module, "_SPARSE_SHARE", 1.0)


def test_sparse_weights_hold_too(sparse_always: None, rng: np.random.Generator) -> None:
    chain, exact, _ = made(networks.random_mlp(rng, SIZES["deep"]), 1)
    check(chain, exact, rng, 1)


def test_sparse_and_dense_agree(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    network = networks.random_mlp(rng, SIZES["deep"])
    lower, upper = some_boxes(rng, 20, 4)
    rows = torch.eye(3, dtype=torch.float64)
    dense = bounded(made(network)[0], lower, upper, rows)
    monkeypatch.setattr(chain_module, "_SPARSE_ENTRIES", 0)
    monkeypatch.setattr(chain_module, "_SPARSE_SHARE", 1.0)
    sparse = bounded(made(network)[0], lower, upper, rows)
    for name in ("planes", "constant", "blame"):
        assert torch.allclose(getattr(dense, name), getattr(sparse, name), rtol=0, atol=1e-12)
    assert torch.equal(dense.signs, sparse.signs)


def test_small_parts_change_nothing(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    network = networks.random_mlp(rng, SIZES["deep"])
    lower, upper = some_boxes(rng, 20, 4)
    rows = torch.eye(3, dtype=torch.float64)
    whole = bounded(made(network)[0], lower, upper, rows)
    monkeypatch.setattr(boxes, "_CACHED_ENTRIES", 20)
    monkeypatch.setattr(boxes, "_FORM_ENTRIES", 500)
    parts = bounded(made(network)[0], lower, upper, rows)
    assert torch.allclose(whole.planes, parts.planes, rtol=0, atol=1e-12)
    assert torch.allclose(whole.constant, parts.constant, rtol=0, atol=1e-12)


def test_not_looser_than_the_general_way(rng: np.random.Generator) -> None:
    chain, exact, free = made(networks.random_mlp(rng, SIZES["deep"]))
    lower, upper = some_boxes(rng, 20, 4)
    found = bounded(chain, lower, upper, torch.eye(3, dtype=torch.float64))
    region = InputSet(lower, upper)
    known = forward_activations(exact, region, free)
    general = bound_activations(exact, region, Budget(), known=known.activations)
    decided = torch.cat(
        [(general.values[i].lower >= 0) | (general.values[i].upper <= 0) for i in
         exact.network.pre_activations], dim=1)  # fmt: skip
    assert (found.signs != 0).sum() >= 0.95 * decided.sum()


def test_affine_on_a_cell_is_exact(rng: np.random.Generator) -> None:
    """On boxes so small that every neuron is decided the planes are the network."""
    chain, exact, _ = made(networks.random_mlp(rng, SIZES["deep"]))
    lower = torch.as_tensor(rng.uniform(-1, 1, (10, 4)))
    found = bounded(chain, lower, lower + 1e-9, torch.eye(3, dtype=torch.float64))
    sure = (found.signs != 0).all(dim=1)
    values = (found.planes * lower[:, None]).sum(2) + found.constant
    assert sure.any()
    assert torch.allclose(values[sure], exact(lower)[sure], rtol=0, atol=1e-12)
    assert (found.blame[sure] == 0).all()


def _with_leaky(rng: np.random.Generator) -> Network:
    return networks.random_leaky(rng, [4, 8, 3])


def _huge(rng: np.random.Generator) -> Network:
    weight = np.full((2, 2), 1e200)
    nodes = (Node(ops.Input(), (), (2,), "x"),)
    for index in range(3):
        nodes += (Node(ops.Linear(weight, np.zeros(2)), (2 * index,), (2,), "a"),)
        nodes += (Node(ops.Relu(), (2 * index + 1,), (2,), "r"),)
    nodes += (Node(ops.Linear(weight, np.zeros(2)), (6,), (2,), "y"),)
    return Network(nodes, b"", "", None)


@pytest.mark.parametrize(
    "make", [networks.random_conv, networks.random_residual, _with_leaky, _huge]
)
def test_other_networks_are_no_chains(
    make: Callable[[np.random.Generator], Network], rng: np.random.Generator
) -> None:
    network = make(rng)
    exact = TorchNetwork(network, dtype=torch.float64)
    ends = torch.ones(network.input_size, dtype=torch.float64)
    assert box_chain(exact, -ends, ends, torch.arange(len(ends))) is None


def lattice(rng: np.random.Generator, first: int = 8) -> Network:
    """The greatest of affine functions, as a tree of maxima written with ReLUs."""
    weight, bias = rng.normal(size=(first, 2)), rng.normal(size=first)
    nodes = (Node(ops.Input(), (), (2,), "x"), Node(ops.Linear(weight, bias), (0,), (first,), "f"))
    pair = np.array([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0]])
    join = np.array([[0.5, 0.5, 0.5, -0.5]])
    while first > 1:
        half, last = first // 2, len(nodes) - 1
        spread = ops.Linear(np.kron(np.eye(half), pair), np.zeros(4 * half))
        nodes += (Node(spread, (last,), (4 * half,), "s"),)
        nodes += (Node(ops.Relu(), (last + 1,), (4 * half,), "r"),)
        gather = ops.Linear(np.kron(np.eye(half), join), np.zeros(half))
        nodes += (Node(gather, (last + 2,), (half,), "m"),)
        first = half
    return Network(nodes, b"", "", None)


def test_pairs_that_are_linear_together(rng: np.random.Generator) -> None:
    network = lattice(rng)
    kept = [node.op.weight.copy() for node in network.nodes if isinstance(node.op, ops.Linear)]
    chain, exact, _ = made(network)
    check(chain, exact, rng, 0)
    assert [int(mask.sum()) for mask in chain.linear] == [8, 4, 2]
    points = torch.as_tensor(rng.uniform(-1, 1, (50, 2)))
    assert torch.allclose(chain.values(points), exact(points), rtol=0, atol=1e-12)
    after = [node.op.weight for node in network.nodes if isinstance(node.op, ops.Linear)]
    assert all((a == b).all() for a, b in zip(kept, after, strict=True))


def test_pairs_that_are_almost_linear_stay(rng: np.random.Generator) -> None:
    network = lattice(rng, 2)
    step = network.nodes[4].op
    assert isinstance(step, ops.Linear)
    step.weight[0, 2] += 2.0**-40
    chain, exact, _ = made(network)
    assert int(chain.linear[0].sum()) == 0
    check(chain, exact, rng, 0)
