"""Cut boxes hold every counterexample, units' bounds hold on them, verdicts stay the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from test_bab import LAZY, check, problem_of
from test_bab_multineuron import Kept

from branching_cases import RELU_KINDS, cases
from closegap.core.budget import Budget
from closegap.testing.enumeration import clause_margin
from closegap.verify.bab.bounder import DomainBounder
from closegap.verify.bab.clipping import Clipping, ClippingOptions
from closegap.verify.bab.domains import DomainBatch, unit_walls
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.clipping import cut_sides

CUT = replace(LAZY, clipping=ClippingOptions(inputs=9, least=0.0))


def test_sides_are_those_of_the_half_space(rng: np.random.Generator) -> None:
    planes = torch.as_tensor(rng.normal(size=(30, 1, 2)))
    constant = torch.as_tensor(rng.normal(size=(30, 1)))
    low, high = -torch.ones(30, 2).double(), torch.ones(30, 2).double()
    sides = cut_sides(planes, constant, torch.zeros(30, 1).double(), low, high)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 801)] * 2), axis=-1).reshape(-1, 2)
    empty = 0
    for row, side, left, right in zip(planes[:, 0], constant[:, 0], *sides, strict=True):
        inside = grid[grid @ row.numpy() + float(side) <= 0]
        if not len(inside):
            empty += bool((left > right).any())
            continue
        assert (inside >= left.numpy()).all()
        assert (inside <= right.numpy()).all()
        np.testing.assert_allclose(inside.min(axis=0), left[0], atol=0.01)
        np.testing.assert_allclose(inside.max(axis=0), right[0], atol=0.01)
    assert empty


@pytest.mark.parametrize("kind", ["wide", "leaky", "narrow residual"])
def test_trees_that_clip_agree_with_enumeration(kind: str, rng: np.random.Generator) -> None:
    for case in islice(cases(rng, RELU_KINDS[kind], 1, clauses=(2, 1), radius=0.8), 4):
        check(case, CUT)


@pytest.mark.parametrize("kind", ["wide", "narrow residual"])
def test_boxes_hold_every_counterexample(kind: str, rng: np.random.Generator) -> None:
    cut = broken = 0
    for case in islice(cases(rng, RELU_KINDS[kind], 2, clauses=(1, 2), radius=0.8), 2):
        region, prop = case.query.region, case.query.prop
        points = rng.uniform(region.lower, region.upper, (20_000, *region.lower.shape))
        flat = points.reshape(len(points), -1)
        few = [np.quantile(clause_margin(case.query, clause, points), 0.02) for clause in (0, 1)]
        offsets = prop.offsets - np.array(few)[prop.clause]
        query = replace(case.query, prop=replace(prop, offsets=offsets))
        problem = problem_of(query)
        units = np.stack([rng.permutation(problem.units)[:3] for _ in range(16)])
        signs, root = rng.choice([-1, 1], units.shape), rng.integers(0, 2, 16)
        batch = DomainBatch(root, units, signs)
        clipping = Clipping(problem, CUT.clipping)
        found = DomainBounder(problem, LAZY.children, clipping=clipping).bound(batch, Budget())
        plain = DomainBounder(problem, LAZY.children).bound(batch, Budget())
        assert found.boxes is not None
        values = problem.exact.values(problem.exact.tensor(flat))
        every = torch.cat([values[x.feed].flatten(1)[:, x.indices] for x in problem.layers], 1)
        walls = unit_walls(batch, problem.units)
        for number in range(16):
            here = ((every >= walls.low[number]) & (every <= walls.high[number])).all(dim=1)
            margins = clause_margin(query, int(root[number]), points)
            bad = here.numpy() & (margins <= 0)
            assert not bad.any() or found.lower[number] <= margins[bad].min()
            low, high = np.split(found.boxes[number], 2)
            assert ((flat[bad] >= low) & (flat[bad] <= high)).all()
            assert (every[bad] >= found.unit_lower[number]).all()
            assert (every[bad] <= found.unit_upper[number]).all()
            broken += bool(bad.any())
            tighter = found.unit_upper[number] < plain.unit_upper[number]
            cut += bool(tighter.any()) and bool(bad.any())
    assert broken
    assert cut


def test_a_tree_that_clips_goes_on_exactly(rng: np.random.Generator) -> None:
    case = next(cases(rng, RELU_KINDS["wide"], 1, radius=0.8))
    problem, budget, kept = problem_of(case.query), Budget.of_seconds(60, nodes=60), Kept()
    outcome = BranchAndBound(problem, CUT, lambda points: False).run(budget, kept)
    state = next(s for s in kept.states if len(s["boxed"]))
    again = BranchAndBound(problem, CUT, lambda points: False)
    again.resume(state)
    other = again.run(budget)
    assert other.accounting == outcome.accounting
    assert (other.lower == outcome.lower).all()


def test_what_shrinks_no_box_is_left_alone(rng: np.random.Generator) -> None:
    problem = problem_of(next(cases(rng, RELU_KINDS["wide"], 1)).query)
    options = ClippingOptions(inputs=9, trial=10, least=0.1)
    clipping = Clipping(problem, options)
    assert clipping.active
    clipping.counts = np.array([10, 0.9])
    assert not clipping.active
    assert not Clipping(problem, replace(options, inputs=0)).active
