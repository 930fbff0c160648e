"""Scores: zero for units that cannot be split, and never below what they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from branching_cases import RELU_KINDS
from closegap.bounds.optimise import AscentOptions
from closegap.branching import FILTERS, SCORERS, BranchingOptions, Evidence
from closegap.branching.costs import cost_adjusted, split_costs
from closegap.branching.gains import GAINS
from closegap.branching.guided import disagreement, guided
from closegap.branching.intercept import intercept
from closegap.branching.shortlist import best_of_all, best_of_each_layer
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.branching import Brancher
from closegap.verify.bab.costs import measured_costs
from closegap.verify.bab.domains import DomainBatch
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.incomplete import LinearVerifier
from tiny_networks import query

NAMES = (*SCORERS, *FILTERS)


def evidence_of(rng: np.random.Generator, **more: torch.Tensor) -> Evidence:
    """Every kind of interval: open, on, off, and each end at zero."""
    lower = torch.as_tensor(-rng.uniform(0, 2, (4, 30)))
    upper = torch.as_tensor(rng.uniform(0, 2, (4, 30)))
    lower[:, :5] = 0
    upper[:, 5:10] = 0
    lower[:, 10:12], upper[:, 10:12] = 0.1, 0.5
    lower[:, 12:14], upper[:, 12:14] = -0.5, -0.1
    lower[:, 14], upper[:, 14] = 0, 0
    return Evidence(
        incoming=torch.as_tensor(rng.normal(size=(4, 30)) * 10),
        lower=lower,
        upper=upper,
        open=(lower < 0) & (upper > 0),
        bias=torch.as_tensor(rng.normal(size=30)),
        layer=torch.arange(30) // 10,
        **more,
    )


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("joint", [False, True])
def test_stable_units_score_nothing(name: str, joint: bool, rng: np.random.Generator) -> None:
    more = {n: torch.as_tensor(rng.normal(size=(4, 30))) for n in ("residual", "resting")}
    evidence = evidence_of(rng, **(more if joint else {}))
    scores = SCORERS[name](evidence)
    assert (scores[~evidence.open] == 0).all()
    assert (scores >= 0).all()
    assert scores.isfinite().all()


def test_intercept_is_the_loss_at_the_chord(rng: np.random.Generator) -> None:
    evidence = evidence_of(rng)
    incoming, lower, upper = evidence.incoming, evidence.lower, evidence.upper
    chord = -upper * lower / (upper - lower)
    expected = torch.where(incoming < 0, -incoming * chord, 0.0)
    assert torch.allclose(intercept(evidence)[evidence.open], expected[evidence.open])


def test_active_constraints_count_by_multiplier_and_distance(rng: np.random.Generator) -> None:
    evidence = evidence_of(rng)
    at_zero = SCORERS["acs"](evidence)
    assert torch.allclose(at_zero, intercept(evidence))
    taken = replace(evidence, residual=torch.zeros_like(evidence.incoming))
    assert torch.allclose(SCORERS["acs"](taken), at_zero / 2)
    # On [-1, 1] the line is at (z + 1) / 2: at 0.5 the children gain 0.25 and 0.75 of it.
    units = [torch.full((1, 3), value).double() for value in (-2.0, -1.0, 1.0)]
    point = torch.tensor([[0.5, -0.5, 7.0]]).double()
    both = Evidence(*units, torch.ones(1, 3).bool(), point[0], torch.zeros(3).int(), resting=point)
    expected = [2 * (0.25 * 0.75) ** 0.5] * 2 + [2 * 0.05**0.5]
    assert torch.allclose(SCORERS["acs"](both), torch.tensor([expected]).double())


def test_costs_and_votes_reorder(rng: np.random.Generator) -> None:
    costs = split_costs(torch.tensor([1.0, 2.0, 4.0]).double(), 0.5)
    assert costs.tolist() == [6.5, 4.5, 0.5]
    layer = torch.arange(3)
    assert cost_adjusted(torch.ones(1, 3).double(), costs, layer).argmax() == 2
    equal = torch.full((3,), 7.0).double()
    scores = torch.as_tensor(rng.uniform(size=(2, 3)))
    assert torch.equal(cost_adjusted(scores, equal, layer), scores)
    votes = disagreement(torch.tensor([[True, True, False], [True, False, False]]))
    assert votes.tolist() == [0.0, 1.0, 0.0]
    assert guided(torch.ones(1, 3).double(), votes).tolist() == [[1.0, 2.0, 1.0]]


def test_splits_of_early_layers_cost_more(rng: np.random.Generator) -> None:
    costs = measured_costs(problem_of("narrow residual", rng))
    assert (costs > 0).all()
    assert (costs[:-1] > costs[1:]).all()


@pytest.mark.parametrize("name", GAINS)
def test_gains_prefer_both_children(name: str) -> None:
    worth = GAINS[name](np.array([1.0, 3.0, 0.0]), np.array([1.0, 0.0, 0.0]))
    assert worth[0] > worth[1] > worth[2]


def test_shortlists() -> None:
    tables = [torch.tensor([[3.0, 0.0, 1.0, 2.0]]), torch.tensor([[1.0, 0.0, 4.0, 2.0]])]
    assert best_of_all(tables, 2).tolist() == [[0, 3, 2, -1]]
    assert best_of_all(tables, 9).tolist() == [[0, 3, 2, -1, -1, -1, -1, -1]]
    layer = torch.tensor([0, 0, 1, 1])
    assert best_of_each_layer(tables, layer).tolist() == [[0, -1, 3, 2]]


@pytest.mark.parametrize(
    ("options", "text"),
    [({"name": "best"}, "babsr"), ({"gain": "max"}, "product"), ({"count": 0}, "positive")],
)
def test_unknown_options_are_refused(options: dict[str, object], text: str) -> None:
    with pytest.raises(OptionError, match=text):
        BranchingOptions(**options)


def problem_of(kind: str, rng: np.random.Generator) -> SplitProblem:
    asked = query(rng, RELU_KINDS[kind](rng), radius=1.0)
    bounds = LinearVerifier(asked).activations(Budget())
    problem = split_problem(asked, bounds, np.zeros(2, np.int64))
    assert problem is not None
    return problem


@pytest.mark.parametrize("kind", ["narrow residual", "leaky", "convolutional"])
@pytest.mark.parametrize("name", NAMES)
def test_neither_stable_nor_split_units_are_chosen(
    kind: str, name: str, rng: np.random.Generator
) -> None:
    problem = problem_of(kind, rng)
    bounder = DomainBounder(problem, AscentOptions(iterations=2))
    near = rng.normal(size=(5, *problem.input_shape))
    costs = torch.arange(1.0, len(problem.layers) + 1).double()
    every = BranchingOptions(name, cost_adjusted=True, guided=True, gain="product")
    for options in (BranchingOptions(name), every):
        pair = [Brancher(problem, bounder, options, near, costs) for _ in range(2)]
        for depth in range(problem.units + 1):
            units = np.stack([rng.permutation(problem.units)[:depth] for _ in range(5)])
            signs = rng.choice([-1, 1], size=units.shape)
            batch = DomainBatch(rng.integers(0, 2, 5), units, signs)
            result = bounder.bound(batch, Budget())
            ranked, again = (brancher.rank(batch, result) for brancher in pair)
            assert name == "auto" or (ranked == again).all()  # auto goes by the clock
            open_ = ((result.unit_lower < 0) & (result.unit_upper > 0)).numpy()
            for domain, row in enumerate(ranked):
                taken = row[row >= 0]
                assert len(set(taken.tolist())) == len(taken)
                assert open_[domain, taken].all()
                assert not set(taken.tolist()) & set(units[domain].tolist())
                assert len(taken) or not open_[domain].any()


@pytest.mark.parametrize("bound", [np.nan, -np.inf])
@pytest.mark.parametrize("name", ["fsb", "kfsb"])
def test_a_unit_is_chosen_where_quick_bounds_overflow(
    name: str, bound: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = problem_of("narrow residual", rng)
    bounder = DomainBounder(problem, AscentOptions(iterations=2))
    none = np.zeros((2, 0), np.int64)
    batch = DomainBatch(np.arange(2), none, none)
    result = bounder.bound(batch, Budget())
    monkeypatch.setattr(DomainBounder, "glance", lambda _, b: np.full(len(b.root), bound))
    for gain in GAINS:
        options = BranchingOptions(name, gain=gain)
        ranked = Brancher(problem, bounder, options).rank(batch, result)
        assert (ranked[:, 0] >= 0).all()


def test_choices_agree_with_strong_branching(rng: np.random.Generator) -> None:
    # The worse child of the first choice, bounded with care, among those of all units: 1 is best.
    ranks: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(12):
        problem = problem_of("narrow residual", rng)
        if problem.units < 3:
            continue
        bounder = DomainBounder(problem, AscentOptions(iterations=15, goal=np.inf))
        none = np.zeros((1, 0), np.int64)
        root = DomainBatch(np.zeros(1, np.int64), none, none)
        result = bounder.bound(root, Budget())
        warm = replace(root, payload=result.payload)
        every = np.arange(problem.units)
        same, level = np.zeros(len(every), np.int64), np.zeros(len(every))
        children = [warm.children(same, every, sign, level) for sign in (1, -1)]
        worse = np.minimum(*(bounder.bound(child, Budget()).lower for child in children))
        for name in NAMES:
            unit = Brancher(problem, bounder, BranchingOptions(name)).rank(warm, result)[0, 0]
            ranks[name].append(float((worse <= worse[unit] + 1e-9).mean()))
    means = {name: float(np.mean(found)) for name, found in ranks.items()}
    assert all(means[name] > 0.5 for name in NAMES)
    assert means["acs"] > means["babsr"]
    assert all(means[name] > max(0.75, means["babsr"]) for name in FILTERS)
