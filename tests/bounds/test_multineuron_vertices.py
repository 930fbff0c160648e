"""Vertices of octahedra are those that programs and other enumerations find."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.spatial import HalfspaceIntersection

from closegap.bounds.multineuron.vertices import directions, enumerate_vertices


def limits_around(rng: np.random.Generator, size: int, count: int) -> np.ndarray:
    """Octahedra that touch random clouds around zero, and hold them."""
    clouds = rng.normal(size=(count, 12, size)) @ rng.normal(size=(count, size, size))
    clouds = clouds + 0.3 * rng.normal(size=(count, 1, size))
    return np.asarray((clouds @ directions(size).T).max(axis=1))


def test_directions_come_in_opposite_pairs() -> None:
    for size in (2, 3, 4):
        found = directions(size)
        assert len(found) == 3**size - 1
        np.testing.assert_array_equal(found[::2], -found[1::2])


@pytest.mark.parametrize("size", [2, 3])
def test_vertices_are_those_of_every_orthant(size: int, rng: np.random.Generator) -> None:
    limits = limits_around(rng, size, 6)
    vertices, tolerance = enumerate_vertices(limits, size)
    assert (vertices @ directions(size).T <= limits[:, None] + 20 * tolerance[:, None, None]).all()
    for group, sides in enumerate(limits):
        for signs in np.array(np.meshgrid(*[[-1.0, 1.0]] * size)).reshape(size, -1).T:
            rows = np.concatenate([directions(size), -np.diag(signs)])
            right = np.concatenate([sides, np.zeros(size)])
            inner, radius = _centre(rows, right)
            if radius < 1e-6:
                continue
            exact = HalfspaceIntersection(np.column_stack([rows, -right]), inner).intersections
            apart = np.abs(exact[:, None] - vertices[group][None]).max(axis=2).min(axis=1)
            assert (apart <= tolerance[group] + 1e-7).all()


@pytest.mark.parametrize("ties", [True, False])
def test_vertices_of_four_neurons_attain_what_programs_do(
    ties: bool, rng: np.random.Generator
) -> None:
    limits = limits_around(rng, 4, 4)
    limits = limits if ties else limits + 0.3 * rng.uniform(size=limits.shape)
    limits[0] = np.abs(directions(4)) @ [1.0, 0.5, 2.0, 1.0]  # a box: all other limits tie
    vertices, tolerance = enumerate_vertices(limits, 4)
    lifted = np.concatenate([vertices, np.maximum(vertices, 0)], axis=2)
    signs = np.array(list(product((-1.0, 1.0), repeat=4)))
    for group, sides in enumerate(limits):
        weights = rng.normal(size=8)
        pieces = [
            linprog(
                weights[:4] + (sign > 0) * weights[4:],
                np.concatenate([directions(4), -np.diag(sign)]),
                np.concatenate([sides, np.zeros(4)]),
                bounds=[(None, None)] * 4,
            )
            for sign in signs
        ]
        exact = min(float(p.fun) for p in pieces if p.success)
        room = float(tolerance[group] * np.abs(weights).sum()) + 1e-7
        assert abs((lifted[group] @ weights).min() - exact) <= room


def test_as_many_vertices_as_known() -> None:
    for size, known in ((2, 13), (3, 79), (4, 633)):
        shifts = np.random.default_rng(size).uniform(size=3**size - 1)
        limits = np.linalg.norm(directions(size), axis=1) + 0.02 * shifts
        assert enumerate_vertices(limits[None], size)[0].shape[1] == known


def _centre(rows: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre and radius of the largest ball inside."""
    wide = np.column_stack([rows, np.linalg.norm(rows, axis=1)])
    found = linprog(
        np.eye(wide.shape[1])[-1] * -1, wide, right, bounds=[(None, None)] * wide.shape[1]
    )
    return (found.x[:-1], float(found.x[-1])) if found.success else (rows[0], -1.0)


def test_vertices_where_every_bound_is_redundant_but_the_box() -> None:
    box = {(1.0, 0.0): 2.0, (-1.0, 0.0): 1.0, (0.0, 1.0): 3.0, (0.0, -1.0): 0.5}
    limits = np.array([[box.get(tuple(c), 10.0) for c in directions(2)]])
    vertices, _ = enumerate_vertices(limits, 2)
    found = {tuple(v) for v in vertices[0].round(6)}
    expected = {(x, y) for x in (-1.0, 0.0, 2.0) for y in (-0.5, 0.0, 3.0)}
    assert {(x + 0.0, y + 0.0) for x, y in found} == expected


def test_empty_octahedra_are_refused() -> None:
    limits = np.full((1, 8), -1.0)
    with pytest.raises(ValueError, match="empty"):
        enumerate_vertices(limits, 2)
