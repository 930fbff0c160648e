"""Lower ends by secants through the image: never above the enumerated optimum, and near it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.runtime.cache import compiled, replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import (
    Grid,
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.specs.objectives.l1_tv import VariationOf
from closegap.specs.region import lp_ball
from closegap.strategy.distance import minimise_distance
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.networks import (
    random_conv,
    random_leaky,
    random_maxpool,
    random_mlp,
    random_residual,
)
from closegap.verify.linear_piece import LinearPiece
from closegap.verify.secants import Room, Secants, secant_floor
from tiny_networks import linear, network

GRID = Grid(1, 2, 2)
DISTANCES: list[Objective] = [
    LinfDistance(),
    L2Distance(),
    L1Distance(),
    L1Distance(np.array([0.5, 1.0, 2.0, 4.0])),
    L0Distance(GRID),
    L1TvDistance(GRID),
    L1TvDistance(GRID, of="difference"),
    L1TvDistance(GRID, 0.7, isotropic=True),
]
LONG = Budget.of_seconds(math.inf)


def of(made: Network, image: np.ndarray, objective: Objective | None = None) -> DistanceQuery:
    label = int(replayer(made).outputs_float32(image[None]).argmax())
    return DistanceQuery(made, image, label, objective or L1Distance())


def asked(rng: np.random.Generator, made: Network) -> DistanceQuery:
    return of(made, rng.random(made.input_shape).astype(np.float32))


@pytest.mark.parametrize("turn", range(4))
def test_no_counterexample_is_nearer(rng: np.random.Generator, turn: int) -> None:
    hidden = [[5], [4, 3], [2, 2, 2], [3, 3]][turn]
    make = random_leaky if turn == 3 else random_mlp
    reached: list[float] = []
    while len(reached) < 2 * len(DISTANCES):
        query = asked(rng, make(rng, [4, *hidden, 3]))
        pieces = pieces_of(query)
        if math.isinf(least_distance(query, pieces)):
            assert secant_floor(query, LONG) >= 0
            continue
        for objective in DISTANCES:
            one = replace(query, objective=objective)
            best = least_distance(one, pieces)
            for upper in (math.inf, best + 1):
                found = secant_floor(one, LONG, upper=upper)
                assert found <= min(best, upper) + 1e-9
            reached.append(max(found, 0.0) / best if best > 0 else 0.0)
    assert np.mean(reached) > 0.1, reached


def test_what_holds_in_a_region_holds_for_its_counterexamples(rng: np.random.Generator) -> None:
    """At any limit, not only at the best one: no nearer counterexample than what is reached."""
    for _ in range(2):
        query = asked(rng, random_mlp(rng, [4, 4, 3, 2]))
        pieces = pieces_of(query)
        for objective in DISTANCES:
            one = replace(query, objective=objective)
            best, secants = least_distance(one, pieces), Secants(one, LONG)
            limits = (best, 1.5 * best + 1, 4.0) if math.isfinite(best) else ()
            whole = [float(math.ceil(x)) if objective.integral else x for x in limits]
            assert all(secants.reached(limit) <= best + 1e-9 for limit in whole)


@pytest.mark.parametrize("norm", [1, 2, math.inf])
def test_rows_fall_no_further_than_bounded(rng: np.random.Generator, norm: float) -> None:
    """Best points of prices of the norm, drawn into the ball: they meet the bound nearly."""
    image, ratios = rng.random(6), []
    for radius in (0.1, 0.4, 1.0, 3.0):
        room = Room.of(lp_ball(image, radius, norm=norm), image)
        caps = np.maximum(1 - image, image) if norm == 2 else np.concatenate([1 - image, image])
        rows = rng.random((3, 12)) * (rng.random((3, 12)) < 0.7)
        rates = np.maximum(rows[:, :6], rows[:, 6:]) if norm == 2 else rows
        if norm == math.inf:
            met = np.maximum(*np.split(rows * np.minimum(caps, radius), 2, axis=1)).sum(axis=1)
        else:
            prices = np.geomspace(0.01, 100, 4000)[:, None, None]
            steps = np.minimum(rates / prices, caps) if norm == 2 else caps * (rates > prices / 100)
            size = np.maximum(np.linalg.norm(steps, ord=norm, axis=2, keepdims=True), 1e-9)
            met = (rates * steps * np.minimum(1, radius / size)).sum(axis=2).max(axis=0)
        for form in (rows, csr_array(rows)):
            assert (room.most(form) >= met - 1e-12).all()
        ratios.append(met / np.maximum(room.most(rows), 1e-9))
    assert np.median(ratios) > 0.9


@pytest.mark.parametrize("of", ["image", "difference"])
def test_moves_cost_no_less_than_bounded(rng: np.random.Generator, of: VariationOf) -> None:
    """The cheapest of many moves of one to four pixels that come to what is needed."""
    ratios = []
    for _ in range(12):
        image, steep, need = rng.random(4), rng.random((1, 4)), rng.uniform(0.05, 0.3, 1)
        objective = L1TvDistance(GRID, of=of)
        ways = rng.normal(size=(4000, 4)) * (rng.random((4000, 4)) < 0.5)
        ways = ways * (need / np.maximum(np.abs(ways) @ steep[0], 1e-9))[:, None] * (1 + 1e-9)
        ways = ways[((image + ways >= 0) & (image + ways <= 1)).all(axis=1)]
        ways = ways[np.abs(ways) @ steep[0] >= need]
        found = objective.least_moved(image, steep, need, np.zeros(4), np.ones(4))[0]
        best = objective.value(image, image + ways).min()
        assert found <= best + 1e-9
        ratios.append(found / best)
    assert np.median(ratios) > 0.6


def test_linear_networks_are_exact(rng: np.random.Generator) -> None:
    query = asked(rng, random_mlp(rng, [4, 2]))
    for objective in (L2Distance(), L1Distance(), L0Distance(GRID), LinfDistance()):
        one = replace(query, objective=objective)
        best = least_distance(one)
        found = secant_floor(one, LONG)
        assert found <= best + 1e-9
        if math.isfinite(best):
            assert found == pytest.approx(best, rel=0.03)


def test_secants_of_one_layer_lose_nothing_under_l1(rng: np.random.Generator) -> None:
    """Corners of the ball move one input: where excesses only take away, the worst is found."""
    for _ in range(8):
        inner, outer = linear(rng, 4, 8), -np.abs(rng.normal(size=(2, 8)))
        image = np.full(4, 0.5, dtype=np.float32)
        at_image = np.maximum(inner.weight @ image + inner.bias, 0) @ outer[0]
        steps = np.linspace(0, 0.5, 2001)
        points = 0.5 + steps[:, None, None] * np.concatenate([np.eye(4), -np.eye(4)])
        taken = np.maximum(points @ inner.weight.T + inner.bias, 0) @ outer[0] - at_image
        margin = -taken[1000].min()  # lost half way to the side, along the worst input
        head = ops.Linear(np.stack([outer[0], np.zeros(8)]), np.array([margin - at_image, 0.0]))
        net = network(
            Node(ops.Input(), (), (4,)),
            Node(inner, (0,), (8,)),
            Node(ops.Relu(), (1,), (8,)),
            Node(head, (2,), (2,)),
        )
        query = DistanceQuery(net, image, 0, L1Distance())
        assert secant_floor(query, LONG) == pytest.approx(0.25, rel=0.03)


@pytest.mark.parametrize("make", [random_conv, random_residual])
def test_rows_hold_at_points(
    rng: np.random.Generator, make: Callable[[np.random.Generator], Network]
) -> None:
    """The linear piece and its excesses are the network: at points, and no less by much."""
    made = make(rng)
    query = asked(rng, made)
    piece = LinearPiece(made, query.center, LONG)
    rows = query.within(0.0).prop.rows
    found = piece.rows(made.output, rows)
    for point in rng.random((16, made.input_size)):
        inputs = torch.tensor(point.reshape(1, *made.input_shape))
        values = [v[0].flatten().numpy() for v in compiled(made, torch.float64).values(inputs)]
        total = found.base + found.slopes @ (point - query.center)
        for activation, through in found.through.items():
            feed = made.nodes[activation].inputs[0]
            total = total + through @ np.maximum(-piece.signs[feed] * values[feed], 0.0)
        assert (rows @ values[-1] >= total).all()
        assert rows @ values[-1] == pytest.approx(total, abs=1e-8)


def lost_points(rng: np.random.Generator, query: DistanceQuery) -> np.ndarray:
    """Counterexamples on the ways from the image to corners, and to faces near them."""
    size = query.network.input_size
    corners = rng.random((40, size)).round()
    faces = np.where(rng.random(corners.shape) < 0.2, corners, query.center)
    steps = np.linspace(0, 1, 80)[:, None, None]
    ends = np.concatenate([corners, faces]) - query.center
    points = (query.center + steps * ends).reshape(-1, size).astype(np.float32)
    inputs = points.reshape(-1, *query.network.input_shape)
    outputs = replayer(query.network).outputs_float64(inputs)
    lost = points[outputs.argmax(axis=1) != query.label]
    return np.asarray(lost[:400])


@pytest.mark.parametrize("make", [random_conv, random_residual])
def test_no_sampled_counterexample_is_nearer(
    rng: np.random.Generator, make: Callable[[np.random.Generator], Network]
) -> None:
    raised = 0
    for _ in range(3):
        query = asked(rng, make(rng))
        lost = lost_points(rng, query)
        for objective in (L1Distance(), L2Distance(), LinfDistance(), L1TvDistance(query.picture)):
            one = replace(query, objective=objective)
            floor = secant_floor(one, LONG)
            raised += floor > 0
            assert all(floor <= one.distance(point) + 1e-9 for point in lost)
    assert raised >= 12


def test_networks_with_other_activations_have_none(rng: np.random.Generator) -> None:
    for made in (random_mlp(rng, [4, 3, 2], activation="Sigmoid"), random_maxpool(rng)):
        if any(isinstance(node.op, (ops.Sigmoid, ops.Max)) for node in made.nodes):
            assert secant_floor(asked(rng, made), LONG) == -math.inf


def test_no_time_proves_nothing(rng: np.random.Generator) -> None:
    query = asked(rng, random_mlp(rng, [4, 3, 2]))
    assert secant_floor(query, Budget.of_seconds(0)) == -math.inf


def test_the_first_line_of_a_bracket(rng: np.random.Generator) -> None:
    """A strategy raises its lower end before it looks for anything."""
    query = asked(rng, random_conv(rng))
    told: list[float] = []
    floor = secant_floor(query, LONG, prove=told.append)
    assert told == sorted(told)
    assert told[-1] == floor > 0
    assert minimise_distance(query, timeout=0.5).lower >= floor
