"""Nodes' programs of l2 and of isotropic total variation: who solves them, what counts of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from test_sparse_tree import asked, grounded, judged

from closegap.attacks.sparse.columns import distance_columns
from closegap.attacks.sparse.nodes import Nodes
from closegap.attacks.sparse.options import PAPER, Curved, SparseOptions
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.tree import SparseTree
from closegap.core.budget import Budget
from closegap.mip.clarabel import ClarabelBackend
from closegap.mip.conic import ConicModel
from closegap.mip.model import Claim, SolveOptions, Status
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Grid, L1TvDistance, L2Distance, Objective
from closegap.testing.distances import least_distance

GRID = Grid(1, 2, 2)
CURVED: list[Objective] = [
    L2Distance(),
    L1TvDistance(GRID, isotropic=True),
    L1TvDistance(GRID, kappa=0.5, of="difference", isotropic=True),
]
BY_CLARABEL = replace(PAPER, curved=Curved.CLARABEL)
needs_clarabel = pytest.mark.skipif(
    not ClarabelBackend().installed(), reason="clarabel is not installed"
)


def nodes_of(query: DistanceQuery, curved: Curved) -> Nodes:
    return Nodes(grounded(query, 2.0), query.objective, Budget(), curved)


def solved(query: DistanceQuery, options: SparseOptions):
    def judge(point: np.ndarray, _: float) -> bool:
        return judged(query, point)

    return SparseTree(options).run(query, Budget.of_seconds(30), judge)


@needs_clarabel
@pytest.mark.parametrize("objective", CURVED)
def test_bounds_are_no_worse_and_hold_at_every_point(objective: Objective) -> None:
    rng = np.random.default_rng(3)
    query = replace(asked(11), objective=objective)
    plain, conic = nodes_of(query, Curved.PLAIN), nodes_of(query, Curved.CLARABEL)
    ground, points = plain.ground, rng.random((1000, 4))
    seen = [ground.forward(point - query.center) for point in points]
    values = np.array([value for value, _ in seen])
    distances = objective.value(query.center, points)
    for row in range(len(ground.rows)):
        lost = np.array([margins[row] for _, margins in seen]) <= 0
        for unit in (None, *np.flatnonzero(ground.low * ground.high < 0).tolist()):
            node = Ranges(ground.low, ground.high)
            node = node if unit is None else node.split(unit, int(rng.choice([-1, 1])))
            before, after = (n.solve(row, node, math.inf)[0].lower for n in (plain, conic))
            assert after >= before - 1e-5 * (1 + abs(before)) or math.isinf(before)
            inside = ((values >= node.low) & (values <= node.high)).all(axis=1) & lost
            assert (distances[inside] >= after - 1e-9).all()


@needs_clarabel
@pytest.mark.parametrize("objective", CURVED)
@pytest.mark.parametrize("seed", [1, 7])
def test_the_published_tree_finds_the_enumerated_distance(objective: Objective, seed: int) -> None:
    query = replace(asked(seed), objective=objective)
    least, found = least_distance(query), solved(query, BY_CLARABEL)
    assert found.closed and found.notes == ()
    assert found.lower <= least + 1e-7 and found.upper >= least - 1e-7


class Liar:
    """Clarabel's points, with bounds and multipliers of its own."""

    def __init__(self, factor: float) -> None:
        self._factor, self._solve = factor, ClarabelBackend().solve_conic

    def __call__(self, model: ConicModel, options: SolveOptions) -> Claim:
        claim = self._solve(model, options)
        if claim.row_duals is None or claim.cone_duals is None:
            return claim
        rng = np.random.default_rng(len(claim.row_duals))
        return replace(
            claim,
            status=Status.OPTIMAL,
            bound=1e9,
            objective=1e9,
            row_duals=self._factor * claim.row_duals + rng.normal(size=claim.row_duals.shape),
            cone_duals=self._factor * claim.cone_duals - rng.random(claim.cone_duals.shape),
        )


@needs_clarabel
@pytest.mark.parametrize("objective", CURVED[:2])
@pytest.mark.parametrize("factor", [0.0, -1.0, 1e6, math.nan])
def test_a_lying_solver_proves_nothing_false(
    objective: Objective, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = replace(asked(7), objective=objective)
    least = least_distance(query)
    liar = Liar(factor)
    monkeypatch.setattr(ClarabelBackend, "solve_conic", lambda _, *args: liar(*args))
    found = solved(query, BY_CLARABEL)
    assert found.lower <= least + 1e-7
    assert found.upper >= least - 1e-7


@needs_clarabel
def test_cones_are_the_terms_of_the_variation() -> None:
    rng = np.random.default_rng(5)
    objective = L1TvDistance(GRID, kappa=0.7, isotropic=True)
    query = replace(asked(5), objective=objective)
    columns = distance_columns(objective, grounded(query, 2.0))
    tangents = columns.tangents
    assert tangents is not None and tangents.isotropic
    matrix, offsets = tangents.cones(columns)
    for _ in range(5):
        change = rng.random(4) - query.center
        values = np.zeros(len(columns.cost))
        values[:4], values[4:8] = np.maximum(change, 0), np.maximum(-change, 0)
        there = tangents.clean + np.stack([tangents.across @ change, tangents.down @ change])
        length = np.hypot(*there)
        first = np.hypot(*tangents.clean) + (tangents.first * (there - tangents.clean)).sum(axis=0)
        values[tangents.start :] = length - first
        rows = (matrix @ values + offsets).reshape(-1, 3)
        np.testing.assert_allclose(rows, np.stack([length, *there], axis=1), atol=1e-12)
        cost = columns.cost @ values + columns.constant
        assert cost == pytest.approx(objective.value(query.center, query.center + change), abs=1e-9)


def test_a_missing_solver_is_named_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ClarabelBackend, "installed", lambda self: False)
    for objective, other in ((CURVED[0], "PIQP"), (CURVED[1], "HiGHS")):
        query = replace(asked(7), objective=objective)
        found = solved(query, BY_CLARABEL)
        (note,) = found.notes
        assert "clarabel is not installed (pip install closegap[conic])" in note and other in note
        assert found.closed and found.lower <= least_distance(query) + 1e-7
        assert solved(query, PAPER).notes == ()
