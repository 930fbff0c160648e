"""The layered engine takes what it can pay for and leaves the rest to others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from closegap.core.budget import Budget
from closegap.core.verdict import Reason, Verdict
from closegap.graph import ops
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import make_objective
from closegap.specs.property import Property
from closegap.specs.query import Query
from closegap.specs.region import Box
from closegap.strategy.engines.layered import LayeredEngine
from closegap.strategy.session import Session
from closegap.strategy.solve import solve
from closegap.testing.distances import least_distance
from closegap.testing.enumeration import clause_margin
from closegap.testing.networks import random_mlp
from closegap.verify.layered.ball import BallReach
from closegap.verify.layered.halfspaces import HalfSpaces, least_under
from tiny_networks import convolutional, dense
from tiny_networks import query as random_query


def test_convolutions_and_smooth_activations_are_left_alone(rng: np.random.Generator) -> None:
    for network in (convolutional(rng), dense(rng, [3, 4, 4, 2], ops.Tanh())):
        session = Session(random_query(rng, network))
        LayeredEngine().run(session, Budget.of_seconds(5))
        assert "nodes" not in session.counts


def test_without_memory_it_says_so(rng: np.random.Generator) -> None:
    session = Session(random_query(rng, dense(rng, [3, 12, 12, 2], ops.Relu()), radius=1.0))
    LayeredEngine().run(session, Budget(memory=16))
    assert "nodes" not in session.counts
    assert any("too much time or memory" in note for note in session.notes)


def test_it_heeds_the_node_limit_and_says_so() -> None:
    rng = np.random.default_rng(3)
    network, rows = random_mlp(rng, [5, 20, 20, 2]), np.eye(2)
    prop = Property(rows, np.zeros(2), np.arange(2), True, ("first", "second"))
    query = Query(network, Box(np.full(5, -1.0), np.full(5, 1.0)), prop)
    points = rng.uniform(-1, 1, size=(5000, 5))
    least = np.array([clause_margin(query, clause, points).min() for clause in range(2)])
    query = replace(query, prop=replace(prop, offsets=0.8 - least))
    found = [
        solve(query, engines=("crown", "layered"), budget=Budget.of_seconds(60, nodes=nodes))
        for nodes in (21, 7, 7)
    ]
    assert [result.reason for result in found] == [Reason.NODES] * 3
    assert [result.counts["nodes"] for result in found] == [21, 7, 7]
    assert "more --nodes" in found[0].detail
    assert found[1].clause_lower.tolist() == found[2].clause_lower.tolist()


@pytest.mark.parametrize("cuts", [0, 3])
def test_least_values_in_a_ball_are_below_the_program_and_near_it(
    cuts: int, rng: np.random.Generator
) -> None:
    """Where each side of the box is at the center or beyond the ball, as with images."""
    size, rows, radius = 6, 4, 0.7
    center = np.where(rng.random(size) < 0.5, 0.0, 0.9)
    lower, upper = center - (center > 0) * 0.8, center + 0.75
    normals, offsets = rng.normal(size=(1, cuts, size)), np.full((1, cuts), -0.2)
    offsets -= normals @ center
    targets = rng.normal(size=(1, rows, size))
    spaces = HalfSpaces(torch.tensor(normals), torch.tensor(offsets))
    box, ball = (torch.tensor(lower), torch.tensor(upper)), (torch.tensor(center), radius)
    found = least_under(spaces, torch.tensor(targets), *box, 60, ball)
    value, lost = found.value[0].numpy(), found.rounding[0].numpy()
    assert (lost < 1e-4).all()
    for row, target in enumerate(targets[0]):
        program = minimize(
            lambda x, target=target: target @ x,
            center,
            jac=lambda x, target=target: target,
            bounds=np.stack([lower, upper], axis=1),
            constraints=[
                {"type": "ineq", "fun": lambda x: radius**2 - ((x - center) ** 2).sum()},
                {"type": "ineq", "fun": lambda x: -(normals[0] @ x + offsets[0])},
            ][: 1 + (cuts > 0)],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert value[row] - lost[row] <= program.fun + 1e-6
        assert value[row] >= program.fun - 0.05


def test_least_values_in_a_ball_stay_below_the_dual(rng: np.random.Generator) -> None:
    """In long double, of rows of all scales and sides of all kinds."""
    size, cuts, rows = 200, 4, 6
    center = rng.random(size)
    rooms = rng.choice([0.0, 1e-4, 0.01, 0.2], size=(2, size))
    box = torch.tensor(center - rooms[0]), torch.tensor(center + rooms[1])
    normals, offsets = rng.normal(size=(1, cuts, size)), rng.normal(size=(1, cuts))
    targets = rng.normal(size=(1, rows, size)) * 10.0 ** rng.uniform(-25, 4, (1, rows, 1))
    spaces = HalfSpaces(torch.tensor(normals), torch.tensor(offsets))
    ball = torch.tensor(center), 0.3
    found = least_under(spaces, torch.tensor(targets), *box, 5, ball)
    reach = BallReach(*ball, box, torch.float64)
    moved = targets.astype(np.longdouble)
    moved = moved + found.multipliers.double().numpy().astype(np.longdouble) @ normals
    dual = moved[0] @ center - reach.length(torch.tensor(moved[0].astype(np.float64))).numpy()
    dual += found.multipliers[0].double().numpy() @ offsets[0]
    assert ((found.value[0] - found.rounding[0]).numpy() <= dual).all()
    for _ in range(200):
        step = rng.normal(size=size)
        step *= 0.3 * rng.random() / np.linalg.norm(step)
        point = np.clip(center + step, box[0].numpy(), box[1].numpy())
        fallen = -(moved[0] @ (point - center))
        assert (fallen <= reach.length(torch.tensor(moved[0].astype(np.float64))).numpy()).all()


def test_proofs_in_euclidean_balls_agree_with_the_enumerated_distance(
    rng: np.random.Generator,
) -> None:
    decided = 0
    while decided < 2:
        network = random_mlp(rng, [3, 5, 5, 3])
        image = (0.4 + 0.2 * rng.random(3)).astype(np.float32)
        label = int(replayer(network).outputs_float32(image[None])[0].argmax())
        query = DistanceQuery(network, image, label, make_objective("l2", image))
        least = least_distance(query)
        if not least < 0.4:  # the box cuts nothing off
            continue
        decided += 1
        for share in (0.9, 1.02):
            session = Session(query.within(share * least))
            LayeredEngine().run(session, Budget.of_seconds(30))
            assert (session.bracket.verdict is Verdict.VERIFIED) == (share < 1)
