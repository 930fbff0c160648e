"""Cells and their programs against autograd, enumeration and closed forms."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from closegap.attacks.activation.cells import UnitNetwork, flipped
from closegap.attacks.activation.programs import PROGRAMS
from closegap.attacks.activation.programs.lazy import nearest_walls
from closegap.attacks.activation.region import RegionProblem, region_problem
from closegap.attacks.activation.walk import Place, Walk, crossings, visit
from closegap.core.budget import Budget
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.property import Property
from closegap.specs.query import Query, robustness
from closegap.specs.region import Box
from closegap.testing.enumeration import least_clause_margin
from closegap.testing.networks import random_conv, random_leaky, random_maxpool, random_mlp
from tiny_networks import residual

BUILDERS = {
    "mlp": lambda rng: random_mlp(rng, [4, 8, 8, 3]),
    "leaky": lambda rng: random_leaky(rng, [4, 8, 3]),
    "conv": random_conv,
    "maxpool": random_maxpool,
    "residual": residual,
}
NORMS = [1.0, 2.0, math.inf]


def problem_of(query: Query) -> RegionProblem:
    problem = region_problem(query, Budget())
    assert problem is not None
    return problem


def tiny(rng: np.random.Generator, norm: float = math.inf, radius: float = 0.4) -> Query:
    network = random_mlp(rng, [2, 3, 3, 3])
    return robustness(network, rng.random(2), int(rng.integers(3)), radius, norm=norm)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_cells_maps_are_the_networks_derivatives(rng: np.random.Generator, kind: str) -> None:
    network = BUILDERS[kind](rng)
    query = robustness(network, rng.random(network.input_shape), 0, 0.3)
    problem = problem_of(query)
    exact = TorchNetwork(network, dtype=torch.float64)
    for _ in range(5):
        point = rng.uniform(problem.ground.lower, problem.ground.upper)
        cell = problem.units.cell(problem.units.phase(point))
        image = torch.as_tensor(point).reshape(1, *network.input_shape)
        jacobian = torch.autograd.functional.jacobian(exact, image).reshape(-1, point.size)
        np.testing.assert_allclose(cell.output_rows, jacobian.numpy(), atol=1e-9)
        outputs = exact(image)[0].numpy()
        np.testing.assert_allclose(cell.output_rows @ point + cell.output_constants, outputs)
        np.testing.assert_allclose(problem.units.outputs(point), outputs, atol=1e-9)
        weights = rng.normal(size=len(outputs))
        gradient = problem.units.gradient(problem.units.phase(point), weights)
        np.testing.assert_allclose(gradient, weights @ cell.output_rows, atol=1e-9)
        assert (cell.depths(point) >= -1e-9).all()


def test_a_cell_from_its_neighbour_is_the_cell_itself(rng: np.random.Generator) -> None:
    problem = problem_of(robustness(random_mlp(rng, [4, 9, 9, 9, 3]), rng.random(4), 0, 0.5))
    units = problem.units
    near = units.cell(units.phase(problem.ground.center))
    for count in (0, 1, 3):
        which = rng.choice(units.units, size=count, replace=False)
        phase = flipped(near.phase, which)
        one, other = units.cell(phase, near), units.cell(phase)
        np.testing.assert_allclose(one.rows, other.rows, atol=1e-12)
        np.testing.assert_allclose(one.output_rows, other.output_rows, atol=1e-12)
        np.testing.assert_allclose(one.output_constants, other.output_constants, atol=1e-12)


@pytest.mark.parametrize("norm", [1.0, math.inf])
def test_the_least_over_all_cells_is_the_enumerated_optimum(
    rng: np.random.Generator, norm: float
) -> None:
    for _ in range(2):
        query = tiny(rng, norm)
        problem = problem_of(query)
        for clause in range(2):
            least = min((a.value for a in all_cells(problem, clause)), default=math.inf)
            assert least == pytest.approx(least_clause_margin(query, clause), abs=1e-7)


def remember(values: list[float], place: Place) -> bool:
    values.append(place.answer.value)
    return False


def all_cells(problem: RegionProblem, clause: int) -> list[Any]:
    none = np.zeros(0, dtype=np.int64)
    found = []
    for phase in itertools.product([False, True], repeat=problem.units.units):
        cell = problem.units.cell(np.array(phase, dtype=np.bool_))
        answer = problem.program.least_margin(
            cell, problem.goals[clause], problem.radius, none, Budget()
        )
        if answer is not None:
            found.append(answer)
    return found


@pytest.mark.parametrize("norm", NORMS)
def test_lazy_walls_find_what_all_walls_find(rng: np.random.Generator, norm: float) -> None:
    network = random_mlp(rng, [6, 30, 20, 3])
    problem = problem_of(robustness(network, rng.random(6), 0, 0.5, norm=norm))
    cell = problem.units.cell(problem.units.phase(problem.ground.center))
    every = np.arange(problem.units.units)
    goal = problem.goals[0]
    lazy = problem.program.least_margin(cell, goal, problem.radius, every[:1], Budget())
    full = problem.program.least_margin(cell, goal, problem.radius, every, Budget())
    assert lazy is not None
    assert full is not None
    assert lazy.value == pytest.approx(full.value, abs=1e-5)
    assert (cell.depths(lazy.point) >= -1e-6).all()
    assert problem.program.distance(lazy.point) <= min(problem.radius, 0.5) + 1e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e9])
def test_programs_know_no_scale(rng: np.random.Generator, scale: float, norm: float) -> None:
    """Of the goal's rows, 0 for a cell in which no output moves, and of the walls'."""
    query = robustness(random_mlp(rng, [4, 8, 6, 3]), rng.random(4), 0, 0.4, norm=norm, target=1)
    problem = problem_of(query)
    cell = problem.units.cell(problem.units.phase(problem.ground.center))
    (goal,) = problem.goals
    every = np.arange(problem.units.units)
    ask = partial(problem.program.least_margin, radius=problem.radius, near=every, budget=Budget())
    plain = ask(cell, goal)
    assert plain is not None
    wall = scale or 1.0
    walls = replace(cell, rows=wall * cell.rows, constants=wall * cell.constants)
    other = ask(walls, replace(goal, rows=scale * goal.rows, offsets=scale * goal.offsets))
    assert other is not None
    assert other.value == pytest.approx(scale * plain.value, abs=0.02 * scale)
    assert (cell.depths(other.point) >= -1e-6).all()
    assert problem.program.distance(other.point) <= min(problem.radius, 0.4) + 1e-6
    if scale:
        assert other.row_duals.sum() == pytest.approx(1.0, abs=1e-4)
        np.testing.assert_allclose(other.wall_duals, plain.wall_duals, atol=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_distances_know_no_scale(rng: np.random.Generator, norm: float) -> None:
    query = robustness(random_mlp(rng, [4, 8, 6, 3]), rng.random(4), 0, 0.4, norm=norm, target=1)
    problem = problem_of(query)
    cell = problem.units.cell(problem.units.phase(problem.ground.center))
    (goal,) = problem.goals
    near = np.arange(problem.units.units)
    least = problem.program.least_margin(cell, goal, problem.radius, near, Budget())
    assert least is not None
    start = goal.margin(problem.units.outputs(problem.ground.center))
    found = []
    for scale in (1.0, 1e-12):
        walls = replace(cell, rows=scale * cell.rows, constants=scale * cell.constants)
        small = replace(goal, rows=scale * goal.rows, offsets=scale * goal.offsets)
        wanted = scale * (start + least.value) / 2
        found.append(problem.program.least_distance(walls, small, wanted, near, Budget()))
    assert found[0] is not None
    assert found[1] is not None
    assert found[1].value == pytest.approx(found[0].value, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_what_rounding_left_of_a_row_is_no_wall(rng: np.random.Generator, norm: float) -> None:
    """A unit that nothing moves leaves the cell as it is, or empties it."""
    query = robustness(random_mlp(rng, [4, 8, 6, 3]), rng.random(4), 0, 0.4, norm=norm, target=1)
    problem = problem_of(query)
    cell = problem.units.cell(problem.units.phase(problem.ground.center))
    ask = partial(
        problem.program.least_margin,
        goal=problem.goals[0],
        radius=problem.radius,
        near=np.arange(problem.units.units),
        budget=Budget(),
    )
    start = ask(cell)
    assert start is not None
    unit = int(start.wall_duals.argmin())
    for size, constant in ((0.0, 0.0), (1e-17, -1e-18), (1e-17, 0.3), (1e-17, -0.3)):
        rows, constants = cell.rows.copy(), cell.constants.copy()
        rows[unit] *= size
        constants[unit] = constant * cell.sign[unit]
        other = replace(cell, rows=rows, constants=constants)
        assert other.idle[unit]
        assert unit not in nearest_walls(other, start.point)
        answer = ask(other)
        if constant == -0.3:
            assert answer is None
        else:
            assert answer is not None
            assert answer.value == pytest.approx(start.value, abs=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_least_distance_to_a_half_space(norm: float, rng: np.random.Generator) -> None:
    """One cell and no box in the way: the margin over the gradient's dual norm."""
    network = random_mlp(rng, [5, 6, 3])
    center = np.full(5, 0.5)
    query = robustness(network, center, 0, 1e-3, norm=norm, target=1)
    problem = problem_of(query)
    program = PROGRAMS[norm](
        type(problem.ground)(center - 100.0, center + 100.0, problem.ground.center)
    )
    empty = UnitNetwork((), problem.units.weight[:, :5], problem.units.bias, 5)
    cell = empty.cell(np.zeros(0, dtype=np.bool_))
    (goal,) = problem.goals
    row = (goal.rows @ cell.output_rows)[0]
    value = float(row @ center + (goal.rows @ cell.output_constants)[0])
    dual = {1.0: math.inf, 2.0: 2, math.inf: 1}[norm]
    answer = program.least_distance(cell, goal, value - 1.0, np.zeros(0, np.int64), Budget())
    assert answer is not None
    assert answer.value == pytest.approx(1.0 / np.linalg.norm(row, dual), rel=1e-5)
    assert program.distance(answer.point) == pytest.approx(answer.value, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_distance_and_margin_are_inverse(rng: np.random.Generator, norm: float) -> None:
    """Within the least distance to a margin, the least margin is that margin."""
    network = random_mlp(rng, [6, 20, 10, 3])
    problem = problem_of(robustness(network, rng.random(6), 0, 0.5, norm=norm, target=1))
    cell = problem.units.cell(problem.units.phase(problem.ground.center))
    (goal,) = problem.goals
    none = np.zeros(0, dtype=np.int64)
    least = problem.program.least_margin(cell, goal, problem.radius, none, Budget())
    assert least is not None
    start = goal.margin(problem.units.outputs(problem.ground.center))
    wanted = (start + least.value) / 2
    nearest = problem.program.least_distance(cell, goal, wanted, none, Budget())
    assert nearest is not None
    assert goal.margin(problem.units.outputs(nearest.point)) == pytest.approx(wanted, abs=1e-5)
    again = problem.program.least_margin(cell, goal, nearest.value, none, Budget())
    assert again is not None
    assert again.value == pytest.approx(wanted, abs=1e-5 if norm != 2 else 0.05 * abs(start))


@pytest.mark.parametrize("rows", [1, 3])
def test_a_walk_falls_and_never_below_the_optimum(rng: np.random.Generator, rows: int) -> None:
    for _ in range(4):
        network = random_mlp(rng, [2, 5, 4, 3])
        prop = Property(
            rng.normal(size=(rows, 3)),
            rng.normal(size=rows),
            np.zeros(rows, np.int64),
            True,
            ("k",),
        )
        query = Query(network, Box(np.zeros(2), np.ones(2)), prop)
        problem = problem_of(query)
        start = visit(problem, 0, rng.random(2), problem.radius, Budget())
        assert start is not None
        values: list[float] = []
        last = Walk().run(
            problem,
            0,
            start,
            problem.lowering(0, problem.radius, Budget()),
            Budget(),
            partial(remember, values),
        )
        assert (np.diff(values) < 0).all()
        assert last.answer.value >= least_clause_margin(query, 0) - 1e-6
        assert problem.margins(last.answer.point)[0] == pytest.approx(last.answer.value, abs=1e-6)


def test_what_a_crossing_gains_to_first_order(rng: np.random.Generator) -> None:
    """Where one wall blocks, the margin behind it moves as the multipliers say."""
    seen = 0
    for _ in range(30):
        problem = problem_of(
            robustness(random_mlp(rng, [3, 6, 6, 3]), rng.random(3), 0, 0.5, target=1)
        )
        place = visit(problem, 0, problem.ground.center, problem.radius, Budget())
        assert place is not None
        gains = crossings(problem, 0, place)
        (blocking,) = np.nonzero(place.answer.wall_duals > 1e-6)
        near = nearest_walls(place.cell, place.answer.point)
        if len(blocking) != 1 or np.isfinite(gains).sum() != 1:
            continue
        phase = flipped(place.cell.phase, blocking)
        cell = problem.units.cell(phase, place.cell)
        behind = problem.program.least_margin(cell, problem.goals[0], math.inf, near, Budget())
        assert behind is not None
        assert (behind.value < place.answer.value - 1e-9) == (gains[blocking[0]] > 1e-9)
        seen += 1
    assert seen >= 3
