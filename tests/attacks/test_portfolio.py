"""Starts near the least distance, against enumeration."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from torch import Tensor

from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.attack import replayed
from closegap.attacks.minimal.below import below
from closegap.attacks.minimal.fitting import fitted
from closegap.attacks.minimal.portfolio import portfolio
from closegap.attacks.minimal.successive import SuccessivePrograms, linear_program
from closegap.attacks.minimal.variation import VariationProgram
from closegap.core.budget import Budget
from closegap.graph.network import Network
from closegap.runtime.cache import replayer
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import L1TvDistance, ObjectiveOptions, make_objective
from closegap.specs.region import Box
from closegap.testing.distances import least_distance
from closegap.testing.networks import random_mlp, random_residual

NAMES = ["linf", "l2", "l1", "l0", "l1+tv", "weighted-l1"]


def asked(network: Network, image: np.ndarray, name: str) -> DistanceQuery:
    label = int(replayer(network).outputs_float32(image[None])[0].argmax())
    return DistanceQuery(network, image, label, make_objective(name, image))


@pytest.mark.parametrize("name", NAMES)
def test_starts_count_and_none_is_nearer_than_the_optimum(
    rng: np.random.Generator, name: str
) -> None:
    network, exact = random_mlp(rng, [4, 4, 3]), np.inf
    while not np.isfinite(exact):
        query = asked(network, rng.random(4).astype(np.float32), name)
        exact = least_distance(query)
    attacks, judge = replace(portfolio(query.objective), published=()), replayed(query)
    assert attacks.first(query, Budget(), judge, Budget()) == ((), ())
    found = attacks.starts(query, Budget(), judge)
    distances = [nearest.distance for nearest in found]
    assert distances == sorted(distances)
    assert exact - 1e-6 <= distances[0] <= 1.3 * exact + 0.02
    for nearest in found:
        assert nearest.point is not None
        assert replayed(query)(nearest.point, nearest.distance)


@pytest.mark.parametrize("name", ["linf", "l1"])
def test_fab_goes_on_below_a_distance_and_never_below_the_optimum(
    rng: np.random.Generator, name: str
) -> None:
    ratios: list[float] = []
    while len(ratios) < 3:
        query = asked(random_mlp(rng, [4, 4, 3]), rng.random(4).astype(np.float32), name)
        exact, judge = least_distance(query), replayed(query)
        if np.isfinite(exact):
            found = below(query, 1.5 * exact, Budget(), judge)
            assert found.point is None or judge(found.point, found.distance)
            ratios.append(found.distance / exact)
            assert not below(query, 0.9 * exact, Budget(), judge).found
    assert 1 - 1e-6 <= min(ratios) <= 1.05


@pytest.fixture
def slow_first(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ticks of the first few evaluations, on a clock that counts networks' evaluations alone."""
    ticks, calls, first, forward = [0], [0], [1], TorchNetwork.__call__

    def counted(network: TorchNetwork, inputs: Tensor) -> Tensor:
        calls[0] += 1
        ticks[0] += first[0] if calls[0] <= 5 else 1
        return forward(network, inputs)

    monkeypatch.setattr(TorchNetwork, "__call__", counted)
    monkeypatch.setattr("time.monotonic", lambda: float(ticks[0]))
    return first


@pytest.mark.parametrize("name", ["l0", "l1", "l2", "linf"])
def test_attacks_of_many_lanes_or_searches_leave_others_their_steps(
    rng: np.random.Generator, name: str
) -> None:
    query = asked(random_mlp(rng, [4, 4, 3]), rng.random(4).astype(np.float32), name)
    published = [entry.name for entry in portfolio(query.objective).published]
    slow = [n for n in published if n in ("fab-nearest", "ead", "cw", "sparsefool")]
    best = {"l0": "sigma-zero"}.get(name, "fmn")
    assert slow
    assert published.index(best) < min(map(published.index, slow))


@pytest.mark.usefixtures("slow_first")
def test_attacks_get_the_steps_that_fit(rng: np.random.Generator) -> None:
    query = asked(random_mlp(rng, [4, 4, 3]), rng.random(4).astype(np.float32), "l1")

    def steps(seconds: float, name: str, sizes: AttackOptions) -> int:
        budget = Budget.of_seconds(seconds)
        attack = fitted(name, sizes, 1.0, query, budget, share=0.5)
        return 0 if attack is None else attack.method.steps

    assert steps(2000, "fmn", AttackOptions()) == 1000
    assert 300 <= steps(800, "fmn", AttackOptions()) <= 400
    assert steps(2000, "fmn", AttackOptions(500)) == 500
    assert steps(30, "fmn", AttackOptions()) == 0
    assert 4 * 300 <= steps(12000 // 2, "ead", AttackOptions()) <= 4 * 400


def test_slow_first_steps_cost_no_others(rng: np.random.Generator, slow_first: list[int]) -> None:
    query = asked(random_mlp(rng, [4, 4, 3]), rng.random(4).astype(np.float32), "l1")
    slow_first[0] = 200
    attack = fitted("fmn", AttackOptions(), 1.0, query, Budget.of_seconds(3000), share=0.5)
    assert attack is not None and attack.method.steps == 1000


def test_programs_come_nearer_and_never_leave_a_broken_point(rng: np.random.Generator) -> None:
    other = np.zeros(0)
    while not len(other):
        network = random_residual(rng)
        drawn = rng.random((40, *network.input_shape)).astype(np.float32)
        labels = replayer(network).outputs_float32(drawn).argmax(axis=1)
        other = drawn[labels != labels[0]]
    for name in ("l1+tv", "weighted-l1"):
        query = asked(network, drawn[0], name)
        begun = min(other, key=query.distance)
        found = SuccessivePrograms(classes=0).run(query, Budget(), replayed(query), [begun])
        assert found.distance < 0.9 * query.distance(begun)
    nothing = SuccessivePrograms().run(query, Budget.of_seconds(0), replayed(query), [begun])
    assert not nothing.found


@pytest.mark.parametrize("isotropic", [False, True])
@pytest.mark.parametrize("of", ["image", "difference"])
def test_primal_dual_steps_reach_the_linear_program_s_optimum(
    rng: np.random.Generator, of: Literal["image", "difference"], isotropic: bool
) -> None:
    network = random_mlp(rng, [108, 4, 3])
    image = rng.random(108).astype(np.float32)
    objective = make_objective("l1+tv", image, options=ObjectiveOptions(of=of, isotropic=isotropic))
    assert isinstance(objective, L1TvDistance)
    query = DistanceQuery(network, image, 0, objective)
    program = replace(VariationProgram.of(query, objective), steps=600)
    for reach in (1.0, 0.2):
        box = Box(np.maximum(query.center - reach, 0), np.minimum(query.center + reach, 1))
        slope = rng.normal(size=108)
        least = float(np.minimum(slope * box.lower, slope * box.upper).sum())
        limit = 0.7 * float(slope @ query.center) + 0.3 * least
        exact = linear_program(query)(slope, limit, box, query.center, Budget())
        found = program.solve(slope, limit, box, query.center, Budget())
        assert exact is not None and found is not None
        assert slope @ found <= limit + 1e-5
        assert (box.lower <= found).all() and (found <= box.upper).all()
        # Tangents of lengths are short by 2 % of them.
        loss = 0.02 * objective.kappa * 2 * np.abs(found).sum() if isotropic else 1e-3
        assert query.distance(found) <= query.distance(exact) * 1.005 + 1e-3
        assert query.distance(found) >= query.distance(exact) - loss
        assert program.solve(slope, least - 0.01, box, query.center, Budget()) is None
