from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.activation.query_attack import run_attack
from closegap.attacks.gradient.ensemble import Ensemble
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.method import Evaluation, Method
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import Problem, build_problem, with_targets
from closegap.attacks.gradient.registry import make_method
from closegap.attacks.outcome import AttackInterrupted, AttackOutcome
from closegap.core.budget import Budget
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.specs.region import Ball, Box
from closegap.testing.networks import random_conv, random_mlp


@dataclass(frozen=True, eq=False)
class ScriptState:
    points: Float[Tensor, "B L D"]
    taken: int


@dataclass(frozen=True)
class Script:
    """Visits points written down beforehand, `[steps + 1, B, L, D]`, or is cut off by Ctrl-C."""

    visits: Any
    name: str = "script"
    restarts: int = 3
    targets: int = 0
    cut: int | None = None

    @property
    def steps(self) -> int:
        return len(self.visits) - 1

    def init(self, problem: Problem, random: torch.Generator) -> ScriptState:
        return ScriptState(self.visits[0][problem.query], 0)

    def objective(self, problem: Problem, state: ScriptState) -> None:
        return None

    def step(
        self, problem: Problem, state: ScriptState, seen: Evaluation, random: torch.Generator
    ) -> ScriptState:
        taken = state.taken + 1
        if taken == self.cut:
            raise KeyboardInterrupt
        return ScriptState(self.visits[taken][problem.query], taken)


def unbreakable(network: Network, count: int) -> list[Query]:
    """Queries whose margins are large, so that no lane ever stops early."""
    prop = Property(
        np.eye(3)[:1], np.array([1e3]), np.zeros(1, np.int64), strict=True, names=("a",)
    )
    return [Query(network, Box(np.zeros(4), np.ones(4)), prop)] * count


def test_the_best_of_every_lane_is_kept(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 3])
    asked = unbreakable(network, 2)
    visits = torch.as_tensor(rng.random((6, 2, 3, 4)), dtype=torch.float32)
    outcomes = run(TorchNetwork(network), asked, Script(visits), Budget())
    exact = TorchNetwork(network, dtype=torch.float64)
    for row, outcome in enumerate(outcomes):
        flat = visits[:, row].reshape(-1, 4)
        margins = asked[row].prop.margins(exact(flat.double()).numpy()).reshape(6, 3)
        np.testing.assert_allclose(outcome.margins, np.sort(margins.min(axis=0)), rtol=1e-6)
        best = visits[:, row][margins.argmin(axis=0), range(3)]
        assert {tuple(p) for p in outcome.points.tolist()} == {tuple(p) for p in best.tolist()}
        assert outcome.evaluations == 18


def test_more_steps_never_make_the_best_worse(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 3])
    asked = unbreakable(network, 1)
    visits = torch.as_tensor(rng.random((12, 1, 3, 4)), dtype=torch.float32)
    margins = [
        run(TorchNetwork(network), asked, Script(visits[:n]), Budget())[0].margin
        for n in range(1, 13)
    ]
    assert (np.diff(margins) <= 0).all()


def test_solved_queries_leave_and_the_others_go_on(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 3])
    prop = unbreakable(network, 1)[0].prop
    box = Box(np.zeros(4), np.ones(4))
    broken = replace(prop, offsets=np.array([-1e3]))
    asked = [Query(network, box, p) for p in (broken, prop, broken, broken)]
    visits = torch.as_tensor(rng.random((9, 4, 3, 4)), dtype=torch.float32)
    outcomes = run(TorchNetwork(network), asked, Script(visits), Budget())
    assert [o.evaluations for o in outcomes] == [3, 27, 3, 3]
    assert [o.margin < 0 for o in outcomes] == [True, False, True, True]
    assert len(outcomes[1].margins) == 3


def test_an_interrupted_run_hands_over_every_query(rng: np.random.Generator) -> None:
    """The wave that is cut off counts, queries that had left stay finished, others have nothing."""
    network = random_mlp(rng, [4, 6, 3])
    (hard,) = unbreakable(network, 1)
    easy = replace(hard, prop=replace(hard.prop, offsets=np.array([-1e3])))
    ball = replace(hard, region=Ball(Box(np.zeros(4), np.ones(4)), np.full(4, 0.5), 0.2, 2))
    asked = [easy, hard, easy, easy, ball]
    visits = torch.as_tensor(rng.random((9, 5, 3, 4)), dtype=torch.float32)
    until = run(TorchNetwork(network), asked[:4], Script(visits[:5]), Budget())
    (first,) = run(TorchNetwork(network), asked[4:], Script(visits[:1, 4:]), Budget())
    script = Script(visits, cut=5)
    found = interrupted(network, asked, script)
    assert [o.finished for o in found] == [True, False, True, True, False]
    assert [o.margin for o in found[:4]] == [o.margin for o in until]
    assert not len(found[4].points)
    both = interrupted(network, asked, Ensemble("both", (Script(visits[:1]), script)))
    assert [o.finished for o in both] == [o.finished for o in found]
    assert both[4].margin == first.margin


def interrupted(
    network: Network, asked: list[Query], attack: Script | Ensemble
) -> tuple[AttackOutcome, ...]:
    with pytest.raises(AttackInterrupted) as stopped:
        run_attack(TorchNetwork(network), asked, attack, Budget())
    return stopped.value.outcomes


def test_a_deadline_is_kept_and_what_was_found_returned(rng: np.random.Generator) -> None:
    network = random_conv(rng, channels=3, side=12)
    asked = [robustness(network, np.full(network.input_shape, 0.5), k, 1e-3) for k in range(3)]
    method = make_method("ods-pgd", AttackOptions(steps=100_000, restarts=5))
    began = time.monotonic()
    outcomes = run(TorchNetwork(network), asked, method, Budget.of_seconds(0.4))
    assert time.monotonic() - began < 1.4
    open_ = [o for o in outcomes if o.margin > 0]
    assert open_
    assert all(not o.finished and len(o.margins) == 5 for o in open_)


def test_no_lanes_start_after_the_deadline(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for one lane at a time, the others are never drawn."""
    starts: list[range] = []

    def drawn(problem: Problem, hardness: torch.Tensor, targets: int, lanes: range) -> Problem:
        starts.append(lanes)
        return with_targets(problem, hardness, targets, lanes)

    monkeypatch.setattr("closegap.attacks.gradient.loop.with_targets", drawn)
    network = TorchNetwork(random_mlp(rng, [4, 6, 3]))
    center = np.full(4, 0.5)
    label = int(network(network.tensor(center[None])).argmax())
    asked = [robustness(network.network, center, label, 1e-6)]
    method = make_method("ods-pgd", AttackOptions(steps=100_000, restarts=50))
    (outcome,) = run(network, asked, method, replace(Budget.of_seconds(0.2), memory=1))
    assert not outcome.finished
    assert starts == [range(1)]


def test_targets_are_the_clauses_of_least_margin(rng: np.random.Generator) -> None:
    network = random_mlp(rng, [4, 6, 5])
    query = robustness(network, rng.random(4), 1, 0.1)
    problem = build_problem(TorchNetwork(network), [query], [0])
    hardness = torch.tensor([[3.0, 1.0, 2.0, 0.5]])
    assert with_targets(problem, hardness, 2, range(4)).target.tolist() == [[3, 1, 3, 1]]
    assert with_targets(problem, hardness, 9, range(1, 5)).target.tolist() == [[1, 2, 0, 3]]
    assert with_targets(problem, hardness, 0, range(2)).target.tolist() == [[-1, -1]]


@pytest.mark.parametrize("name", ["pgd", "mt-pgd", "sampling"])
def test_a_property_without_clauses_has_nothing_to_break(
    rng: np.random.Generator, name: str
) -> None:
    network = random_mlp(rng, [4, 6, 3])
    none = np.zeros(0)
    prop = Property(np.zeros((0, 3)), none, none.astype(np.int64), strict=False, names=())
    method: Method[Any] = make_method(name, AttackOptions(steps=3, restarts=2))
    query = Query(network, Box(np.zeros(4), np.ones(4)), prop)
    (outcome,) = run(TorchNetwork(network), [query], method, Budget())
    assert len(outcome.margins) == 0
    assert outcome.margin == np.inf
