"""The reduced network is the original on the region, within the slack it declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from math import prod

import numpy as np
import pytest
import torch

from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.encode import gathered as gathering
from closegap.encode.condensed import condensed, pruned_network
from closegap.encode.gathered import gathered
from closegap.encode.reduced import (
    ReducedNetwork,
    composed_entries,
    read_entries,
    reduce_network,
)
from closegap.graph.network import Network, Node
from closegap.graph.ops import LeakyRelu, Linear, Relu
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property, robustness_property
from closegap.specs.query import Query
from closegap.specs.region import Box, lp_ball
from closegap.testing import networks
from closegap.verify.incomplete import LinearVerifier
from tiny_networks import dense


def steeper(network: Network) -> Network:
    """The same with a slope that float32 does not have."""
    changed = (
        replace(n, op=LeakyRelu(0.1)) if isinstance(n.op, LeakyRelu) else n for n in network.nodes
    )
    return replace(network, nodes=tuple(changed))


MAKERS: dict[str, Callable[[np.random.Generator], Network]] = {
    "dense": lambda rng: networks.random_mlp(rng, [4, 10, 9, 3]),
    "leaky": lambda rng: networks.random_leaky(rng, [4, 10, 9, 3]),
    "leaky float64": lambda rng: steeper(networks.random_leaky(rng, [4, 10, 9, 3])),
    "conv": networks.random_conv,
    "residual": networks.random_residual,
}

Flat = dict[int, tuple[np.ndarray, np.ndarray]]


def flat(bounds: NetworkBounds) -> Flat:
    return {
        i: (b.lower[0].flatten().numpy(), b.upper[0].flatten().numpy())
        for i, b in bounds.activations.items()
    }


def reduce(
    network: Network, rng: np.random.Generator, radius: float
) -> tuple[Query, Flat, ReducedNetwork]:
    center = rng.uniform(0.3, 0.7, network.input_shape)
    region = lp_ball(center, radius)
    query = Query(network, region, robustness_property(0, 3))
    bounds = flat(LinearVerifier(query).activations(Budget()))
    reach = np.maximum(np.abs(region.lower), np.abs(region.upper)).reshape(-1)
    found = reduce_network(network, bounds, reach, worth=np.inf)
    assert found is not None
    return query, bounds, found


@pytest.mark.parametrize("block", [1, 256])
@pytest.mark.parametrize("radius", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("kind", MAKERS)
def test_values_agree_within_the_slack(
    kind: str, radius: float, block: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_BLOCK", block)
    network = MAKERS[kind](rng)
    query, _, found = reduce(network, rng, radius)
    box = query.region
    share = rng.choice([0.0, 1.0, 0.5], size=(200, *network.input_shape))
    share[:100] = rng.uniform(size=(100, *network.input_shape))
    points = box.lower + share * (box.upper - box.lower)
    original = TorchNetwork(network, dtype=torch.float64).values(torch.as_tensor(points))
    largest = max(float(v.abs().max()) for v in original)
    for form in (found, gathered(found)):
        small = TorchNetwork(form.network, dtype=torch.float64)
        values = small.values(torch.as_tensor(points.reshape(200, -1)))
        assert sorted(form.origin) == sorted(form.bounds)
        for index, (feed, neurons) in form.origin.items():
            expected = original[feed].flatten(1)[:, neurons]
            assert_within(values[index], expected, form.slack[index], largest)
        last = form.network.output
        assert_within(values[last], original[-1].flatten(1), form.slack[last], largest)


def assert_within(
    value: torch.Tensor, expected: torch.Tensor, slack: np.ndarray, largest: float
) -> None:
    # Errors of earlier units pass through later weights: the pass counts them node by node, a
    # forward evaluation meets their sum. Both evaluations round, too.
    allowed = 1e-12 * (1 + largest) + slack
    assert ((value - expected).abs() <= torch.as_tensor(allowed)).all()
    assert (slack >= 0).all()
    assert (slack <= 1e-10 * (1 + largest)).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_units_are_the_unstable_neurons(kind: str, rng: np.random.Generator) -> None:
    network = MAKERS[kind](rng)
    _, bounds, found = reduce(network, rng, 0.1)
    expected = {
        (feed, int(i))
        for feed, (lower, upper) in bounds.items()
        for i in np.flatnonzero((lower < 0) & (upper > 0))
    }
    origins = [(feed, int(i)) for feed, places in found.origin.values() for i in places]
    assert set(origins) == expected
    assert len(origins) == len(expected)
    for index, (feed, places) in found.origin.items():
        lower, upper = found.bounds[index]
        assert (lower == bounds[feed][0][places]).all()
        assert (upper == bounds[feed][1][places]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bound_that_is_not_finite_never_hides_a_neuron(
    bad: float, rng: np.random.Generator
) -> None:
    network = networks.random_mlp(rng, [3, 5, 3])
    _, bounds, _ = reduce(network, rng, 0.1)
    feed = next(iter(bounds))
    lower, upper = (side.copy() for side in bounds[feed])
    lower[2], upper[2] = -bad, bad
    found = reduce_network(network, {feed: (lower, upper)}, np.ones(3), worth=np.inf)
    assert found is not None
    kept = 2 in {int(i) for _, places in found.origin.values() for i in places}
    assert kept or not np.isfinite(found.slack[found.network.output]).all()


def test_other_activations_and_costly_reductions_are_left_alone(
    rng: np.random.Generator,
) -> None:
    sigmoid = networks.random_sigmoid(rng, [3, 4, 3])
    bounds = {i: (np.full(4, -1.0), np.full(4, 1.0)) for i in sigmoid.pre_activations}
    assert reduce_network(sigmoid, bounds, np.ones(3), worth=np.inf) is None
    dense = networks.random_mlp(rng, [3, 4, 3])
    bounds = {i: (np.full(4, -1.0), np.full(4, 1.0)) for i in dense.pre_activations}
    assert reduce_network(dense, bounds, np.ones(3), worth=0.1) is None
    out_of_time = Budget.of_seconds(0)
    assert reduce_network(dense, bounds, np.ones(3), worth=np.inf, budget=out_of_time) is None


def fractions(values: np.ndarray) -> np.ndarray:
    """The same numbers, for exact arithmetic."""
    return np.array([Fraction(float(v)) for v in values.flat], dtype=object).reshape(values.shape)


def exact_values(network: Network, point: np.ndarray) -> list[np.ndarray]:
    """The value of every node of a chain of dense layers, exactly."""
    values = [fractions(point)]
    for node in network.nodes[1:]:
        if isinstance(node.op, Linear):
            values.append(fractions(node.op.weight) @ values[-1] + fractions(node.op.bias))
        else:
            slope = Fraction(node.op.slope if isinstance(node.op, LeakyRelu) else 0)
            values.append(np.array([z if z > 0 else slope * z for z in values[-1]], dtype=object))
    return values


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e8])
@pytest.mark.parametrize("op", [Relu(), LeakyRelu(0.1)])
def test_the_slack_holds_exactly_where_large_weights_cancel(
    op: Relu | LeakyRelu, size: float, rng: np.random.Generator
) -> None:
    network = dense(rng, [3, 6, 6, 5, 3], op)
    for node in network.nodes[1::2]:
        assert isinstance(node.op, Linear)
        node.op.weight[:] += size * rng.integers(-1, 2, node.op.weight.shape)
    query, _, found = reduce(network, rng, 0.2)
    for share in (0.0, 0.3, 1.0):
        point = query.region.lower + share * (query.region.upper - query.region.lower)
        values = exact_values(network, point)
        state = values[0]
        for layer in [*sorted(found.origin), found.network.output]:
            feed, places = found.origin.get(layer, (network.output, np.arange(3)))
            affine = found.network.nodes[layer].op
            assert isinstance(affine, Linear)
            off = fractions(affine.weight) @ state + fractions(affine.bias) - values[feed][places]
            assert (np.abs(off) <= fractions(found.slack[layer])).all()
            if feed != network.output:
                state = np.concatenate([state, values[feed + 1][places]])


@pytest.mark.parametrize("weights", [[1e300, 1e-200, 1e-200], [1e38] * 7 + [1e-45] * 8])
def test_products_that_underflow_are_counted(weights: list[float]) -> None:
    """Coefficients vanish on the way back, and meet inputs that are as large as they are small."""
    network = dense(np.random.default_rng(0), [1] * (len(weights) + 1), Relu())
    for node, weight in zip(network.nodes[1::2], weights, strict=True):
        assert isinstance(node.op, Linear)
        node.op.weight[:], node.op.bias[:] = weight, 0.0
    exact = prod(Fraction(weight) for weight in weights)
    prop = Property(
        -np.ones((1, 1)), np.array([1.5 * float(exact)]), np.zeros(1, int), True, ("only",)
    )
    query = Query(network, Box(np.ones(1), np.full(1, 2.0)), prop)
    linear = LinearVerifier(query)
    known = linear.activations(Budget())
    assert linear.rows(known, Budget(), np.zeros(1, int)).lower[0] <= -0.5 * exact
    found = reduce_network(network, flat(known), np.full(1, 2.0), worth=np.inf)
    assert found is not None
    affine = found.network.nodes[found.network.output].op
    assert isinstance(affine, Linear)
    off = 2 * Fraction(affine.weight.item()) + Fraction(affine.bias.item()) - 2 * exact
    assert abs(off) <= Fraction(found.slack[found.network.output].item())


@pytest.mark.parametrize("radius", [0.001, 0.05, 0.3])
@pytest.mark.parametrize("ends_in_relu", [False, True])
def test_pruned_chains_are_the_original_without_neurons_that_are_never_positive(
    radius: float, ends_in_relu: bool, rng: np.random.Generator
) -> None:
    network = networks.random_mlp(rng, [4, 12, 11, 3])
    if ends_in_relu:
        last = Node(Relu(), (network.output,), (3,), "last")
        network = replace(network, nodes=(*network.nodes, last))
    region = lp_ball(rng.uniform(0.3, 0.7, network.input_shape), radius)
    query = Query(network, region, robustness_property(0, 3))
    bounds = flat(LinearVerifier(query).activations(Budget()))
    found = pruned_network(network, bounds, np.ones(4))
    assert found is not None
    points = torch.as_tensor(rng.uniform(region.lower, region.upper, (200, *network.input_shape)))
    original = TorchNetwork(network, dtype=torch.float64).values(points)
    values = TorchNetwork(found.network, dtype=torch.float64).values(points.flatten(1))
    assert torch.allclose(values[-1], original[-1].flatten(1), rtol=0, atol=1e-12)
    assert len(found.origin) == 2 + ends_in_relu
    for index, (feed, places) in found.origin.items():
        assert torch.allclose(values[index], original[feed][:, places], rtol=0, atol=1e-12)
        if feed != network.pre_activations[-1] or not ends_in_relu:
            assert set(places) == set(np.flatnonzero(bounds[feed][1] > 0))
        assert (found.bounds[index][0] == bounds[feed][0][places]).all()
        assert (found.bounds[index][1] == bounds[feed][1][places]).all()


def test_the_way_with_fewer_products_is_taken(rng: np.random.Generator) -> None:
    network = networks.random_mlp(rng, [4, 10, 10, 3])
    first, second = network.pre_activations
    open_ = np.full(10, -1.0), np.full(10, 1.0)
    steady, dead = (np.full(10, 1.0), np.full(10, 2.0)), (np.full(10, -2.0), np.full(10, -1.0))

    def kind(bounds: Flat) -> set[str]:
        found = condensed(network, bounds, np.ones(4), worth=0.7)
        assert found is not None
        return {type(node.op).__name__ for node in found.network.nodes}

    assert "Add" not in kind({first: open_, second: open_})  # pruned: nothing to leave out
    assert "Take" in kind({first: steady, second: steady})  # composed: one product with the input
    assert pruned_network(network, {first: dead, second: open_}, np.ones(4)) is None
    assert pruned_network(networks.random_leaky(rng, [3, 4, 3]), {}, np.ones(3)) is None


@pytest.mark.parametrize("kind", ["conv", "residual", "dense"])
def test_entries_read_are_at_least_those_that_are_not_zero(
    kind: str, rng: np.random.Generator
) -> None:
    network = networks.random_conv(rng, side=8) if kind == "conv" else MAKERS[kind](rng)
    _, bounds, reduced = reduce(network, rng, 0.3)
    nodes = reduced.network.nodes
    layers = [nodes[feed].op for feed in reduced.origin]
    filled = sum(np.count_nonzero(op.weight) for op in layers if isinstance(op, Linear))
    assert 0 < filled <= read_entries(network, bounds) <= composed_entries(network, bounds)
