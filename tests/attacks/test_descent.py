from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.hopping import Hopping
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.losses import CrossEntropyLoss, GamaLoss, MarginLoss
from closegap.attacks.gradient.method import Method
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import build_problem, with_targets
from closegap.attacks.gradient.registry import make_method
from closegap.attacks.gradient.starts import CenterStart, GivenStart
from closegap.attacks.gradient.steppers import AdamStepper
from closegap.core.budget import Budget
from closegap.graph.network import Network, Node
from closegap.graph.ops import Input, Linear
from closegap.runtime.surrogate import straight_through
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.specs.region import Ball, Box, contains
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import random_mlp, random_sign


def affine(rng: np.random.Generator, size: int, classes: int = 3) -> Network:
    nodes = (
        Node(Input(), (), (size,)),
        Node(Linear(rng.normal(size=(classes, size)), rng.normal(size=classes)), (0,), (classes,)),
    )
    return Network(nodes=nodes, onnx_bytes=b"", digest="affine", batch=1)


def lift(query: Query, by: float) -> Query:
    """The same query, its margins raised so far that no attack stops early."""
    prop = query.prop
    raised = Property(prop.rows, prop.offsets + by, prop.clause, True, prop.names, prop.label)
    return Query(query.network, query.region, raised)


def exact_minimum(query: Query) -> float:
    """The least margin of an affine network over the region: corner, LP, or bisection."""
    layer = query.network.nodes[1].op
    assert isinstance(layer, Linear)
    rows = query.prop.rows @ layer.weight
    constants = query.prop.rows @ layer.bias + query.prop.offsets
    return min(least_linear(query, row) + float(c) for row, c in zip(rows, constants, strict=True))


def least_linear(query: Query, row: np.ndarray) -> float:
    region = query.region
    if isinstance(region, Box):
        return float(np.minimum(row * region.lower, row * region.upper).sum())
    assert isinstance(region, Ball)
    up, down = region.box.upper - region.center, region.center - region.box.lower
    if region.norm == 1:
        lp = linprog(
            np.concatenate([row, -row]),
            A_ub=np.ones((1, 2 * len(row))),
            b_ub=[region.radius],
            bounds=[(0, b) for b in np.concatenate([up, down])],
        )
        return float(row @ region.center + lp.fun)
    room, low, high = np.where(row < 0, up, down), 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        inside = np.linalg.norm(np.minimum(middle * np.abs(row), room)) <= region.radius
        low, high = (middle, high) if inside else (low, middle)
    return float(row @ region.center - np.abs(row) @ np.minimum(low * np.abs(row), room))


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_fgsm_is_the_closed_form_on_affine_networks(rng: np.random.Generator, norm: float) -> None:
    for _ in range(10):
        network = affine(rng, 12)
        radius = {1.0: 1.5, 2.0: 0.5, math.inf: 0.2}[norm]
        query = robustness(network, rng.random(12), 0, radius, norm=norm, target=1)
        query = lift(query, 50.0)
        (outcome,) = run(TorchNetwork(network), [query], make_method("fgsm"), Budget())
        assert abs(outcome.margin - exact_minimum(query)) < 1e-4


def test_fgsm_is_the_sign_step(rng: np.random.Generator) -> None:
    network = affine(rng, 12)
    layer = network.nodes[1].op
    assert isinstance(layer, Linear)
    image = rng.uniform(0.3, 0.7, 12)
    query = lift(robustness(network, image, 0, 0.1, target=1), 50.0)
    (outcome,) = run(TorchNetwork(network), [query], make_method("fgsm"), Budget())
    gradient = layer.weight[0] - layer.weight[1]
    assert outcome.best is not None
    np.testing.assert_allclose(outcome.best, image - 0.1 * np.sign(gradient), atol=1e-6)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("name", ["pgd", "mt-pgd", "ods-pgd", "hop-pgd"])
def test_attacks_reach_the_minimum_on_affine_networks(
    rng: np.random.Generator, norm: float, name: str
) -> None:
    network = affine(rng, 12)
    radius = {1.0: 1.5, 2.0: 0.5, math.inf: 0.2}[norm]
    query = lift(robustness(network, rng.random(12), 0, radius, norm=norm), 50.0)
    (outcome,) = run(TorchNetwork(network), [query], short(name), Budget())
    least = exact_minimum(query)
    spread = float(np.abs(query.prop.rows @ np.asarray(vars(network.nodes[1].op)["weight"])).max())
    assert least - 1e-4 <= outcome.margin <= least + 0.03 * radius * spread


def short(name: str, options: AttackOptions | None = None) -> Method[Any]:
    """The registered attack, hopping cut to three hops."""
    method = make_method(name, options)
    return replace(method, hops=3) if isinstance(method, Hopping) else method


@pytest.mark.parametrize("name", ["mt-pgd", "hop-pgd", "sampling"])
def test_tiny_networks_are_solved(rng: np.random.Generator, name: str) -> None:
    """With many restarts on two inputs the enumerated optimum is attained."""
    for _ in range(2):
        network = random_mlp(rng, [2, 5, 3])
        query = robustness(network, rng.random(2), int(rng.integers(3)), 0.3)
        optimum = min(least_clause_margin(query, k) for k in range(query.prop.clauses))
        method = short(name, AttackOptions(steps=20, restarts=100))
        (outcome,) = run(TorchNetwork(network), [query], method, Budget())
        assert outcome.margin >= optimum - 1e-4
        assert outcome.margin <= max(optimum, 0.0) + 1e-2


def test_adam_moves_inputs_of_any_scale(rng: np.random.Generator) -> None:
    network = affine(rng, 3)
    prop = robustness(network, np.full(3, 0.5), 0, 0.1, target=1).prop
    box = Box(np.array([0, -3e3, 5]), np.array([1e-3, 2e3, 5.0]))
    query = lift(Query(network, box, prop), 1e6)
    method = Descent("adam", stepper=AdamStepper(), step_size=0.2)
    (outcome,) = run(TorchNetwork(network, dtype=torch.float64), [query], method, Budget())
    assert outcome.margin == pytest.approx(exact_minimum(query), abs=1e-2)


def test_losses_are_their_formulas(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 5])
    query = robustness(network, rng.random(4), 2, 0.1)
    problem = build_problem(TorchNetwork(network), [query], [0])
    problem = with_targets(problem, torch.tensor([[0.0, 1, 2, 3]]), 4, range(4))
    o = rng.normal(size=5)
    outputs = torch.as_tensor(o, dtype=torch.float32).expand(1, 4, 5)
    others = [0, 1, 3, 4]
    p = np.exp(o) / np.exp(o).sum()
    c = problem.clean[0].double().numpy()
    clean = np.exp(c) / np.exp(c).sum()
    np.testing.assert_allclose(MarginLoss()(problem, outputs, 0)[0], o[2] - o[others], rtol=1e-4)
    np.testing.assert_allclose(
        CrossEntropyLoss()(problem, outputs, 0)[0], np.full(4, np.log(p[2])), rtol=1e-4
    )
    wanted = p[2] - p[others] - 10 * 0.9**3 * np.sum((p - clean) ** 2)
    np.testing.assert_allclose(GamaLoss()(problem, outputs, 3)[0], wanted, rtol=1e-4)


def test_a_straight_through_sign_keeps_its_value() -> None:
    x = torch.tensor([[-3.0, -0.1, 0.0, 0.2, 4.0]], requires_grad=True)
    signs = torch.tensor([[-1.0, -1.0, 1.0, 1.0, 1.0]])
    value = straight_through(x, signs, 0.5)
    torch.testing.assert_close(value.detach(), signs, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    width = 0.5 * float(x.detach().square().mean().sqrt())
    np.testing.assert_allclose(gradient[0], np.array([0, 1, 1, 1, 0]) / width, rtol=1e-5)


def test_the_surrogate_changes_gradients_and_not_values(rng: np.random.Generator) -> None:
    network = random_sign(rng, [8, 12, 12, 3])
    plain = TorchNetwork(network)
    lens = plain.with_sign_width(0.5)
    points = torch.as_tensor(rng.normal(size=(6, 8)), dtype=torch.float32).requires_grad_()
    torch.testing.assert_close(lens(points), plain(points), rtol=0, atol=0)
    assert not torch.autograd.grad(plain(points).sum(), points)[0].any()
    assert torch.autograd.grad(lens(points).sum(), points)[0].any()
    assert plain.sign_width is None
    assert lens.weights is plain.weights


def test_given_points_are_where_lanes_begin(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [6, 8, 3])
    query = robustness(network, rng.random(6), 0, 0.3)
    points = rng.uniform(-1, 2, (4, 6)).astype(np.float32)
    problem = build_problem(TorchNetwork(network), [query], [0])
    problem = with_targets(problem, problem.clean[:, :2], 0, range(6))
    start = GivenStart({0: points})(problem, torch.Generator().manual_seed(0))[0].numpy()
    box = query.region
    assert isinstance(box, Box)
    np.testing.assert_allclose(start[:4], np.clip(points, box.lower, box.upper), atol=1e-6)
    assert all(contains(box, p) for p in start)
    assert not np.array_equal(start[4], start[0])


def test_hopping_never_loses_what_it_was_given(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [6, 12, 12, 3])
    query = robustness(network, rng.random(6), 0, 0.05)
    lens = TorchNetwork(network)
    (first,) = run(lens, [query], Descent("pgd", steps=3, restarts=8), Budget())
    resumed = Hopping(hops=3, restarts=8).resumed(first.points)
    (second,) = run(lens, [query], resumed, Budget(seed=1))
    assert second.margin <= first.margin + 1e-6


def test_fgsm_without_a_gradient_stays_where_it_is(rng: np.random.Generator) -> None:
    network = random_sign(rng, [5, 6, 3])
    query = robustness(network, np.full(5, 0.5), 0, 0.2)
    (outcome,) = run(TorchNetwork(network), [query], make_method("fgsm"), Budget())
    np.testing.assert_allclose(outcome.points[0], 0.5, atol=1e-6)
    moved = Descent("pgd", start=CenterStart(), steps=1)
    (outcome,) = run(TorchNetwork(network), [query], moved, Budget())
    assert (np.abs(outcome.points[-1] - 0.5) > 0.1).any() or outcome.margins[0] <= 0
