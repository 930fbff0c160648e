"""Least distances by mixed-integer programs: against enumeration, on all distances and solvers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from closegap.attacks.minimal.attack import replayed
from closegap.attacks.sparse.conic import ConicSolver
from closegap.attacks.sparse.generic import GenericMip
from closegap.core.budget import Budget
from closegap.core.tolerance import Tolerance
from closegap.encode import encode
from closegap.encode.distances import encode_distance, tangents
from closegap.mip.model import Claim, Cone, Model, SolveOptions, Status
from closegap.mip.registry import backend
from closegap.runtime.cache import replayer
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
from closegap.specs.region import Box
from closegap.testing.distances import least_distance, pieces_of
from closegap.testing.enumeration import interval_bounds
from closegap.testing.networks import random_mlp

GRID = Grid(1, 2, 2)
TV: list[Objective] = [
    L1TvDistance(GRID, of=of, isotropic=isotropic)
    for of in ("image", "difference")
    for isotropic in (False, True)
]
WEIGHTED = L1Distance(np.array([0.5, 1.0, 2.0, 4.0]))
PLAIN: list[Objective] = [LinfDistance(), L2Distance(), L1Distance(), WEIGHTED, L0Distance(GRID)]
SOLVERS = [
    "scip",
    "highs",
    pytest.param("gurobi", marks=pytest.mark.skipif(
        not backend("gurobi").installed(), reason="gurobipy is not installed")),
]  # fmt: skip
#: Distances that are bracketed, by solver and target.
BRACKETS: dict[tuple[str, int | None], list[Objective]] = {
    ("scip", None): [LinfDistance(), L2Distance(), WEIGHTED, TV[0], TV[1]],
    ("highs", None): [L0Distance(GRID), TV[2]],
    ("scip", 2): [L1Distance(), L0Distance(GRID)],
}


def asked(rng: np.random.Generator, sizes: list[int]) -> DistanceQuery:
    """A tiny network that knows more than one class, and an image of the most frequent."""
    while True:
        network = random_mlp(rng, sizes)
        points = rng.random((200, sizes[0])).astype(np.float32)
        labels = replayer(network).outputs_float32(points).argmax(axis=1)
        if np.bincount(labels).max() < 180:
            label = int(np.bincount(labels).argmax())
            return DistanceQuery(network, points[labels == label][0], label)


def solved(query: DistanceQuery, solver: str) -> float:
    """The optimum of the exact programs, with no allowance, over interval bounds."""
    decision = query.within(0.0)
    whole = np.zeros(query.network.input_shape)
    decision = replace(decision, region=Box(whole, whole + 1))
    best = math.inf
    for clause in range(decision.prop.clauses):
        network = encode(decision, interval_bounds(decision), clause=clause)
        program = encode_distance(network, query.objective, query.center)
        claim = backend(solver).solve(program.model, SolveOptions(time_limit=20))
        if claim.status is not Status.INFEASIBLE:
            assert claim.status is Status.OPTIMAL
            best = min(best, claim.objective)
    return best


@pytest.mark.parametrize("solver", SOLVERS)
def test_programs_have_the_enumerated_optimum(rng: np.random.Generator, solver: str) -> None:
    query = asked(rng, [4, 3, 3])
    pieces = pieces_of(query)
    for objective in [*PLAIN, *TV]:
        varied = isinstance(objective, L1TvDistance) and objective.isotropic
        if solver == "highs" and (varied or isinstance(objective, L2Distance)):
            continue  # HiGHS knows no cones
        one = replace(query, objective=objective)
        assert solved(one, solver) == pytest.approx(least_distance(one, pieces), abs=1e-6)


@pytest.mark.parametrize(("solver", "target"), list(BRACKETS))
def test_brackets_hold_the_enumerated_optimum(
    rng: np.random.Generator, solver: str, target: int | None
) -> None:
    query = asked(rng, [4, 3, 3])
    if target is not None:
        query = replace(query, target=(query.label + 1) % 3)
    pieces = pieces_of(query)
    for objective in BRACKETS[solver, target]:
        one = replace(query, objective=objective)

        def judge(point: np.ndarray, distance: float, one: DistanceQuery = one) -> bool:
            witness = replayer(one.network).witness(one.within(distance), point)
            return witness is not None and witness.breaks

        best = least_distance(one, pieces)
        answer = GenericMip(solver=solver).run(one, Budget.of_seconds(20), judge)
        assert answer.lower <= best + 1e-9
        assert answer.upper >= best - 1e-9
        if math.isfinite(best):
            assert answer.upper - answer.lower <= 1e-3
            assert answer.witness is not None
            assert one.distance(answer.witness) == answer.upper
        else:
            assert answer.lower == math.inf


@pytest.mark.parametrize(
    ("near", "gap"),
    [(Tolerance(math.inf, 0.01), 0.009), (Tolerance(0.01, 0.01), 0.0), (Tolerance(), 0.0)],
)
def test_solvers_are_told_a_share_and_stopped_by_a_repaired_witness(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, near: Tolerance, gap: float
) -> None:
    query = replace(asked(rng, [4, 3, 3]), objective=LinfDistance())
    least = least_distance(query)
    while not 0.05 < least < 1:
        query = replace(asked(rng, [4, 3, 3]), objective=LinfDistance())
        least = least_distance(query)
    points = rng.random((200, 4)).astype(np.float32)
    start = points[replayer(query.network).outputs_float32(points).argmax(axis=1) != query.label][0]
    attained, told = query.distance(start), []

    def stopped(_: object, model: Model, options: SolveOptions) -> tuple[Claim, str, str]:
        told.append(options.gap)
        assert options.interrupted is not None and options.on_bound is not None
        assert not options.interrupted()
        options.on_bound(0.9 * attained)
        assert not options.interrupted()
        options.on_bound(attained)
        assert options.interrupted()
        return Claim(Status.INTERRUPTED, bound=least), "stopped", "scip"

    monkeypatch.setattr(ConicSolver, "solve", stopped)
    programs = GenericMip(solver="scip", tolerance=near)
    answer = programs.run(query, Budget.of_seconds(20), lambda *_: True, starts=(start,))
    assert told and all(one == pytest.approx(gap) for one in told)
    assert answer.lower <= least


@pytest.mark.parametrize("status", [Status.TIME, Status.BOUND_REACHED, Status.OPTIMAL])
def test_a_bound_of_pixels_that_is_attained_proves_no_pixel_more(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, status: Status
) -> None:
    query = replace(asked(rng, [4, 3, 3]), objective=L0Distance(GRID))
    while not 1 <= least_distance(query) <= 2:
        query = replace(asked(rng, [4, 3, 3]), objective=L0Distance(GRID))
    least = least_distance(query)
    points = rng.random((200, 4)).astype(np.float32)
    changed = replayer(query.network).outputs_float32(points).argmax(axis=1) != query.label
    first = query.image.reshape(-1).copy()
    farther = 0
    for point in points[changed]:  # one pixel more than it takes
        some = np.where(np.arange(4) <= least, point, first).astype(np.float32)
        if replayer(query.network).outputs_float32(some[None])[0].argmax() != query.label:
            farther, start = int(query.distance(some)), some
            break
    assert farther == least + 1

    def stopped(*_: object) -> tuple[Claim, str, str]:
        return Claim(status, bound=least), "stopped", "scip"

    monkeypatch.setattr(ConicSolver, "solve", stopped)
    answer = GenericMip(solver="scip").run(
        query, Budget.of_seconds(20), lambda *_: True, starts=(start,)
    )
    assert answer.upper == farther and answer.lower <= least


def test_starts_are_completed_feasibly(rng: np.random.Generator) -> None:
    query = asked(rng, [4, 5, 3])
    decision = query.within(0.0)
    whole = np.zeros(4)
    decision = replace(decision, region=Box(whole, whole + 1))
    network = encode(decision, interval_bounds(decision), clause=0)
    for objective in [*PLAIN, *TV]:
        program = encode_distance(network, objective, query.center, margin=1e3)
        for point in rng.random((5, 4)):
            start = program.start_from(point)
            assert program.model.violation(start) <= 1e-9
            wanted = objective.value(query.center, point)
            assert program.model.objective(start) == pytest.approx(float(wanted))


def test_tangents_cut_a_point_off_and_keep_the_cone(rng: np.random.Generator) -> None:
    cones = (Cone(np.array([0, 1]), 4), Cone(np.array([2, 3]), 5))
    point = np.array([3.0, 4.0, 1.0, 0.0, 4.5, 2.0])
    rows = tangents(cones, point, 1e-6).toarray()
    assert rows.shape == (1, 6)
    assert rows[0] @ point == pytest.approx(0.5)
    inside = rng.normal(size=(100, 6))
    inside[:, 4] = np.linalg.norm(inside[:, :2], axis=1)
    assert (inside @ rows[0] <= 1e-12).all()


def test_it_is_said_that_another_solver_answered(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = replace(asked(rng, [4, 3, 3]), objective=L1Distance())
    monkeypatch.setattr(type(backend("gurobi")), "installed", lambda self: False)
    found = GenericMip("gurobi").run(query, Budget.of_seconds(20), lambda point, distance: True)
    assert len(found.notes) == 1
    assert "gurobi did not answer, scip did" in found.notes[0]
    asked_for = GenericMip("scip").run(query, Budget.of_seconds(20), lambda point, distance: True)
    assert asked_for.notes == ()
    assert found.lower == pytest.approx(asked_for.lower, abs=1e-4)


def test_time_that_is_left_is_for_clauses_that_had_too_little(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first program of all is cut off; the others leave the time that it is asked again for."""
    query, solve, limits = asked(rng, [4, 4, 3]), ConicSolver.solve, list[float]()
    assert query.within(0.0).prop.clauses > 1

    def cut_off(solver: ConicSolver, model: Model, options: SolveOptions) -> tuple[Claim, str, str]:
        limits.append(options.time_limit)
        if len(limits) == 1:
            return Claim(Status.TIME), "cut off", "scip"
        return solve(solver, model, options)

    monkeypatch.setattr(ConicSolver, "solve", cut_off)
    found = GenericMip("scip").run(query, Budget.of_seconds(60), replayed(query))
    assert len(limits) > 2
    assert limits[-1] > limits[0]
    assert found.lower == pytest.approx(least_distance(query), abs=1e-3)
    assert found.upper == pytest.approx(found.lower, abs=1e-3)
