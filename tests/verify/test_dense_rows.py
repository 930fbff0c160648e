"""Rows of dense chains: below the units in exact arithmetic, as tight as backward passes are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from closegap.bounds.optimise import AscentOptions
from closegap.bounds.records import Interval
from closegap.bounds.regions import least
from closegap.core.budget import Budget
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.verify.bab.problem import Layer, SplitProblem, split_problem
from closegap.verify.incomplete import LinearVerifier
from closegap.verify.layered import dense as dense_module
from closegap.verify.layered.dense import DenseRows, dense_rows
from closegap.verify.layered.rows import PassRows, Rows
from tiny_networks import convolutional, dense, network
from tiny_networks import query as random_query

CLIMB = AscentOptions(iterations=4, slope_rate=0.5, decay=0.9)


def problem_of(rng: np.random.Generator, widths: list[int]) -> SplitProblem:
    query = random_query(rng, dense(rng, widths, ops.Relu()), radius=0.4)
    bounds = LinearVerifier(query).activations(Budget())
    problem = split_problem(query, bounds, np.arange(query.prop.clauses), worth=0.0)
    assert problem is not None
    return problem


def domains(
    problem: SplitProblem, rng: np.random.Generator, count: int, width: float = 1.0
) -> tuple[torch.Tensor, dict[int, Interval]]:
    """Points `[count, D]`, and bounds of every layer that hold at each; no width: no relaxation."""
    region = problem.exact_region
    shape = (count, *region.lower.shape[1:])
    points = region.lower + torch.as_tensor(rng.random(shape)) * (region.upper - region.lower)
    values = problem.exact.values(points)
    bounds = {}
    for feed, known in problem.bounds.items():
        share = width * torch.as_tensor(rng.random((2, count, values[feed].shape[1])))
        low = values[feed] + share[0] * (known.lower - values[feed])
        high = values[feed] + share[1] * (known.upper - values[feed])
        bounds[feed] = Interval(torch.minimum(low, values[feed]), torch.maximum(high, values[feed]))
    return points.flatten(1), bounds


def units_of(layer: Layer) -> torch.Tensor:
    return torch.arange(len(layer.indices))


@pytest.mark.parametrize("width", [1.0, 0.0])
def test_planes_lie_below_the_units_in_exact_arithmetic(
    width: float, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_module, "_CACHED_ENTRIES", 100)  # several parts
    problem = problem_of(rng, [3, 7, 6, 6, 2])
    points, bounds = domains(problem, rng, 5, width)
    rows = dense_rows(problem, CLIMB)
    assert rows is not None
    for layer in problem.layers[1:]:
        found = rows.bound(layer, units_of(layer), bounds, Budget())
        for domain, point in enumerate(points):
            exact = exact_values(problem, layer.feed, point)
            targets = [exact[i] for i in layer.indices.tolist()]
            targets += [-t for t in targets]
            for row, target in enumerate(targets):
                lost = target - below(found, domain, row, point)
                assert lost >= 0
                assert width or lost <= 1e-11


def test_rows_hold_where_large_weights_meet_what_underflows() -> None:
    rng = np.random.default_rng(0)
    nodes = [Node(ops.Input(), (), (2,))]
    for scale in (1e-200, 1e-200, 1e200, 1.0):
        weight = ops.Linear(scale * rng.normal(size=(4, nodes[-1].size)), np.zeros(4))
        nodes.append(Node(weight, (len(nodes) - 1,), (4,)))
        nodes.append(Node(ops.Relu(), (len(nodes) - 1,), (4,)))
    query = random_query(rng, network(*nodes[:-1]), radius=2.0)
    problem = split_problem(query, LinearVerifier(query).activations(Budget()), np.arange(1))
    assert problem is not None
    rows, layer = dense_rows(problem, CLIMB), problem.layers[2]
    assert rows is not None
    region = problem.exact_region
    for _ in range(20):
        share = torch.as_tensor(rng.random(2))
        point = region.lower[0] + share * (region.upper - region.lower)[0]
        bounds = {
            feed: Interval(*torch.as_tensor(around(problem, feed, point))[:, None])
            for feed in problem.bounds
        }
        exact = exact_values(problem, layer.feed, point)
        targets = [exact[i] for i in layer.indices.tolist()]
        found = rows.bound(layer, units_of(layer), bounds, Budget())
        for row, target in enumerate([*targets, *(-t for t in targets)]):
            assert below(found, 0, row, point) <= target


def around(problem: SplitProblem, feed: int, point: torch.Tensor) -> np.ndarray:
    """Bounds of the value at a point, and of zero."""
    values = np.array([float(v) for v in exact_values(problem, feed, point)])
    low, high = np.nextafter(values, -np.inf), np.nextafter(values, np.inf)
    return np.stack([np.minimum(low, -3 * values), np.maximum(high, -values)])


def exact_values(problem: SplitProblem, last: int, point: torch.Tensor) -> list[Fraction]:
    values = [Fraction(v) for v in point.tolist()]
    nodes, weights = problem.exact.network.nodes, problem.exact.weights
    for index in range(1, last + 1):
        if isinstance(nodes[index].op, ops.Linear):
            matrix, bias = weights[index]["weight"].tolist(), weights[index]["bias"].tolist()
            values = [
                sum(Fraction(w) * v for w, v in zip(line, values, strict=True)) + Fraction(b)
                for line, b in zip(matrix, bias, strict=True)
            ]
        else:
            values = [max(v, Fraction(0)) for v in values]
    return values


def below(found: Rows, domain: int, row: int, point: torch.Tensor) -> Fraction:
    linear = found.linear
    plane = linear.coefficients[domain, row].flatten().tolist()
    total = sum(Fraction(c) * Fraction(x) for c, x in zip(plane, point.tolist(), strict=True))
    constant, rounding = float(linear.constant[domain, row]), float(linear.rounding[domain, row])
    return total + Fraction(constant) - Fraction(rounding)


def test_they_are_as_tight_as_those_of_backward_passes(rng: np.random.Generator) -> None:
    problem = problem_of(rng, [6, 16, 16, 16, 3])
    _, bounds = domains(problem, rng, 4)
    layer = problem.layers[-1]
    quick = dense_rows(problem, CLIMB)
    assert quick is not None
    for climb, tolerance in ((AscentOptions(iterations=1), 1e-9), (CLIMB, 0.05)):
        means = []
        for rows in (dense_rows(problem, climb), PassRows(problem, climb)):
            assert rows is not None
            found = rows.bound(layer, units_of(layer), bounds, Budget())
            value, _ = least(problem.exact_region, found.linear.coefficients)
            means.append(float((value + found.linear.constant).mean()))
            assert all(part.shape[1] == 2 * len(layer.indices) for part in found.incoming.values())
        assert means[0] == pytest.approx(means[1], rel=tolerance)


def test_slopes_met_are_those_of_least_area(rng: np.random.Generator) -> None:
    problem = problem_of(rng, [5, 9, 9, 9, 3])
    _, bounds = domains(problem, rng, 3)
    layer = problem.layers[-1]
    quick = dense_rows(problem, CLIMB)
    assert isinstance(quick, DenseRows)
    found = quick.bound(layer, units_of(layer), bounds, Budget()).incoming
    plain = PassRows(problem, CLIMB).bound(layer, units_of(layer), bounds, Budget()).incoming
    assert set(found) == set(plain)
    for index, part in plain.items():
        expected = part.expand(found[index].shape)
        assert torch.allclose(found[index], expected, atol=1e-4, rtol=1e-3)


def test_other_networks_are_left_to_backward_passes(rng: np.random.Generator) -> None:
    plain = dense(rng, [3, 4, 4], ops.Relu()).nodes
    square = Node(ops.Reshape(), (3,), (2, 2)), Node(ops.Relu(), (4,), (2, 2))
    leaky = dense(rng, [3, 5, 5, 2], ops.LeakyRelu(0.1))
    for other in (convolutional(rng), leaky, network(*plain, *square)):
        query = random_query(rng, other)
        bounds = LinearVerifier(query).activations(Budget())
        problem = split_problem(query, bounds, np.arange(query.prop.clauses), worth=0.0)
        assert problem is not None
        assert dense_rows(problem, CLIMB) is None
