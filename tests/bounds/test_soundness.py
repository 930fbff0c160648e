"""Bounds hold: at sampled points and corners, exactly on affine networks, and below the LP."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from closegap.bounds.backward import BackwardPass, lower_bound
from closegap.bounds.interval import propagate
from closegap.bounds.optimise import AscentOptions
from closegap.bounds.records import Parameters
from closegap.bounds.regions import input_set, least, minimiser
from closegap.core.budget import Budget
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import robustness_property
from closegap.specs.query import Query
from closegap.specs.region import Ball, Region, lp_ball
from closegap.testing import networks
from closegap.verify.incomplete import LinearVerifier

Maker = Callable[[np.random.Generator], Network]

MAKERS: dict[str, Maker] = {
    "mlp": lambda rng: networks.random_mlp(rng, [4, 8, 7, 3]),
    "conv": networks.random_conv,
    "residual": networks.random_residual,
    "maxpool": networks.random_maxpool,
    "leaky": lambda rng: networks.random_leaky(rng, [4, 8, 7, 3]),
    "sigmoid": lambda rng: networks.random_sigmoid(rng, [4, 8, 7, 3]),
    "tanh": lambda rng: networks.random_tanh(rng, [4, 8, 7, 3]),
    "sign": lambda rng: networks.random_sign(rng, [4, 8, 7, 3]),
}

CLIMB = AscentOptions(iterations=8, goal=np.inf)


def region_of(network: Network, rng: np.random.Generator, radius: float, norm: float) -> Region:
    center = rng.uniform(0.2, 0.8, network.input_shape).astype(np.float32)
    return lp_ball(center, radius, norm=norm)


def points_of(region: Region, rng: np.random.Generator, count: int) -> np.ndarray:
    """Corners, inner points and, for balls, points on the sphere; all inside the region."""
    box = region.box if isinstance(region, Ball) else region
    share = rng.choice([0.0, 1.0, 0.5], size=(count, *box.lower.shape))
    share[: count // 3] = rng.uniform(size=(count // 3, *box.lower.shape))
    points = box.lower + share * (box.upper - box.lower)
    if isinstance(region, Ball):
        step = (points - region.center).reshape(count, -1)
        length = np.linalg.norm(step, ord=region.norm, axis=1, keepdims=True)
        step = step * np.minimum(1, region.radius / np.maximum(length, 1e-30)) * (1 - 1e-12)
        points = region.center + step.reshape(points.shape)
    return points


def linear(network: Network, region: Region) -> LinearVerifier:
    prop = robustness_property(0, network.output_size)
    return LinearVerifier(Query(network, region, prop))


@pytest.mark.parametrize("norm", [1, 2, np.inf])
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("radius", [0.01, 0.15, 0.6])
def test_every_bound_contains_every_sampled_value(
    kind: str, norm: float, radius: float, rng: np.random.Generator
) -> None:
    for _ in range(2):
        network = MAKERS[kind](rng)
        region = region_of(network, rng, radius, norm)
        verifier = linear(network, region)
        budget = Budget()
        exact = TorchNetwork(network, dtype=torch.float64)
        values = exact.values(torch.as_tensor(points_of(region, rng, 300)))
        crown = verifier.activations(budget)
        climbed = verifier.activations(budget, crown, CLIMB)
        for bounds in (crown, climbed):
            for index, value in enumerate(values):
                assert (value >= bounds.values[index].lower).all()
                assert (value <= bounds.values[index].upper).all()
            rows = np.arange(len(verifier.query.prop.rows))
            margins = verifier.query.prop.row_margins(values[-1].flatten(1).numpy()).min(axis=0)
            plain = verifier.rows(bounds, budget, rows).lower
            best = verifier.rows(bounds, budget, rows, CLIMB).lower
            assert np.isfinite(plain).all()
            assert (margins >= plain).all()
            assert (margins >= best).all()
            assert (best >= plain - 1e-4 * (1 + np.abs(plain))).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_tightening_never_loosens(kind: str, rng: np.random.Generator) -> None:
    network = MAKERS[kind](rng)
    verifier = linear(network, region_of(network, rng, 0.2, np.inf))
    interval = propagate(verifier.exact, verifier.exact_region)
    crown = verifier.activations(Budget())
    climbed = verifier.activations(Budget(), crown, CLIMB)
    for index, bound in climbed.activations.items():
        assert (bound.lower >= crown.activations[index].lower).all()
        assert (bound.upper <= crown.activations[index].upper).all()
        assert (crown.activations[index].lower >= interval[index].lower).all()
        assert (crown.activations[index].upper <= interval[index].upper).all()


def test_crown_is_exact_on_affine_networks(rng: np.random.Generator) -> None:
    network = networks.random_mlp(rng, [5, 4, 3], activation="Identity")
    region = region_of(network, rng, 0.1, np.inf)
    verifier = linear(network, region)
    rows = np.arange(2)
    found = verifier.rows(verifier.activations(Budget()), Budget(), rows)
    outputs = verifier.exact(torch.as_tensor(found.candidates)).numpy()
    reached = np.diagonal(verifier.query.prop.row_margins(outputs))
    assert np.allclose(found.lower, reached, rtol=0, atol=1e-11)
    assert (found.lower <= reached).all()


@pytest.mark.parametrize("kind", MAKERS)
def test_a_point_region_gives_the_value_itself(kind: str, rng: np.random.Generator) -> None:
    network = MAKERS[kind](rng)
    region = region_of(network, rng, 0.0, np.inf)
    verifier = linear(network, region)
    bounds = verifier.activations(Budget())
    value = verifier.exact(verifier.exact_region.lower)[0]
    assert torch.allclose(bounds.values[-1].lower.flatten(), value, atol=1e-9)
    assert torch.allclose(bounds.values[-1].upper.flatten(), value, atol=1e-9)


def test_split_multipliers_are_sound_on_their_half(rng: np.random.Generator) -> None:
    network = networks.random_mlp(rng, [3, 6, 6, 2])
    region = region_of(network, rng, 0.4, np.inf)
    exact = TorchNetwork(network, dtype=torch.float64)
    inputs = input_set(exact, region)
    values = propagate(exact, inputs)
    first, second = network.pre_activations
    bounder = BackwardPass(exact, {i: values[i] for i in (first, second)}, values)
    rows = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    points = torch.as_tensor(points_of(region, rng, 4000))
    samples = exact.values(points)
    margins = samples[-1][:, 0] - samples[-1][:, 1]
    for neuron in range(6):
        for sign in (1.0, -1.0):
            split = torch.zeros(1, 1, 6, dtype=torch.float64)
            split[..., neuron] = sign * rng.uniform(0, 2)
            bound = lower_bound(
                bounder, inputs, network.output, rows, Parameters(splits={first: split})
            )
            inside = sign * samples[first][:, neuron] >= 0
            if inside.any():
                assert margins[inside].min() >= bound[0, 0]


@pytest.mark.parametrize("norm", [1, 2])
def test_balls_cut_by_the_pixel_box_match_a_solver(norm: int, rng: np.random.Generator) -> None:
    from scipy.optimize import linprog, minimize

    for _ in range(5):
        size = 5
        center = rng.uniform(0, 1, size).astype(np.float32)
        region = lp_ball(center, 0.5, norm=norm)
        assert isinstance(region, Ball)
        network = networks.random_mlp(rng, [size, 2], activation="Identity")
        exact = TorchNetwork(network, dtype=torch.float64)
        cost = rng.normal(size=size)
        found, slack = least(input_set(exact, region), torch.as_tensor(cost).reshape(1, 1, -1))
        middle, box = region.center, region.box
        if norm == 1:
            both = np.concatenate([cost, -cost])
            answer = linprog(
                both,
                A_ub=np.ones((1, 2 * size)),
                b_ub=[region.radius],
                bounds=[
                    *zip(0 * middle, box.upper - middle, strict=True),
                    *zip(0 * middle, middle - box.lower, strict=True),
                ],
            )
            truth = cost @ middle + answer.fun
        else:
            answer = minimize(
                lambda x, cost=cost: cost @ x,
                middle,
                jac=lambda x, cost=cost: cost,
                bounds=list(zip(box.lower, box.upper, strict=True)),
                constraints={
                    "type": "ineq",
                    "fun": lambda x, m=middle, r=region.radius: r**2 - ((x - m) ** 2).sum(),
                    "jac": lambda x, m=middle: -2 * (x - m),
                },
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            truth = answer.fun
        assert found[0, 0] - slack[0, 0] <= truth + 1e-9
        assert np.isclose(float(found), truth, atol=1e-5)


@pytest.mark.parametrize("norm", [1, 2, np.inf])
def test_the_minimiser_lies_in_the_region_and_is_no_worse_than_the_middle(
    norm: float, rng: np.random.Generator
) -> None:
    network = networks.random_mlp(rng, [6, 2], activation="Identity")
    region = region_of(network, rng, 0.3, norm)
    inputs = input_set(TorchNetwork(network, dtype=torch.float64), region)
    rows = torch.as_tensor(rng.normal(size=(1, 50, 6)))
    points = minimiser(inputs, rows)
    box = region.box if isinstance(region, Ball) else region
    middle = torch.as_tensor((box.lower + box.upper) / 2)
    assert (points >= inputs.lower - 1e-7).all()
    assert (points <= inputs.upper + 1e-7).all()
    if isinstance(region, Ball):
        step = (points[0] - torch.as_tensor(region.center)).numpy()
        assert (np.linalg.norm(step, ord=norm, axis=1) <= region.radius * (1 + 1e-9)).all()
    else:
        assert ((rows * points).sum(-1) <= (rows * middle).sum(-1) + 1e-12).all()


def test_a_small_memory_budget_changes_nothing(rng: np.random.Generator) -> None:
    network = networks.random_conv(rng)
    verifier = linear(network, region_of(network, rng, 0.2, np.inf))
    large = verifier.activations(Budget())
    small = verifier.activations(Budget(memory=1))
    for index in large.activations:
        assert torch.allclose(
            large.activations[index].lower, small.activations[index].lower, atol=1e-9
        )


def test_an_expired_budget_leaves_sound_interval_bounds(rng: np.random.Generator) -> None:
    network = networks.random_conv(rng)
    verifier = linear(network, region_of(network, rng, 0.2, np.inf))
    late = verifier.activations(Budget(deadline=0.0))
    interval = propagate(verifier.exact, verifier.exact_region)
    assert not late.complete
    for index, bound in late.activations.items():
        assert torch.equal(bound.lower, interval[index].lower)


def test_a_bound_that_is_not_finite_is_minus_infinity(rng: np.random.Generator) -> None:
    network = networks.random_mlp(rng, [3, 4, 2])
    exact = TorchNetwork(network, dtype=torch.float64)
    exact.weights[1]["weight"][0, 0] = torch.inf
    inputs = input_set(exact, region_of(network, rng, 0.2, np.inf))
    values = propagate(exact, inputs)
    bounder = BackwardPass(exact, {i: values[i] for i in network.pre_activations}, values)
    rows = torch.ones(1, 1, 2, dtype=torch.float64)
    assert lower_bound(bounder, inputs, network.output, rows)[0, 0] == -torch.inf
