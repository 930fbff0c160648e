"""Vertices of octahedra cut by the coordinate planes, many groups at a time.

An octahedron is `{z : c . z <= U_c}` over all directions `c` in `{-1, 0, 1}^k` but zero. Cut along
the planes `z_i = 0` it falls into pieces on which ReLUs are linear, so that the hull of
`{(z, act(z))}` is the hull of the pieces' vertices, lifted.

A vertex of a piece with `z_i = 0` for `i` in `S`, and nowhere else, is a vertex of the octahedron's
face there: an octahedron of `k - |S|` neurons, the limit of a direction the least over all ways to
continue it to `S`. So it is enough to find the vertices of octahedra.

Why every vertex is found. It solves `k` independent equations out of `c . z = U_c`. Where `a` and
`b` are two of these directions and `a + b = d + e`, then `U_a + U_b <= U_d + U_e`, for `d . z` and
`e . z` are within their limits. So only pairs whose limits have the least sum among all pairs with
the same sum of directions can belong together, and systems whose pairs are all such are solved. As
there are `5^k` sums, they are few unless many pairs tie. Therefore each limit is first raised by a
little of its own: the octahedron only grows.

Matrices with entries in {-1, 0, 1} have integer determinants, and for `k <= 4` their cofactors are
at most 4 in size: so are the entries of the inverses, each rounded once, and the computed solution
is off by at most `gamma(k + 4) * 4 * sum |U|` over the system's planes. A solution is kept when no
inequality is violated by more than rounding explains; so the computed twin of a vertex is never
dropped, and a twin within `tolerance` of each vertex is returned. Points kept besides make a hull
larger, never smaller.

Source of the hulls: Mueller et al., PRIMA, POPL 2022; Ferrari et al., ICLR 2022.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from closegap.core.numerics import TINY, VERTEX_CELL, gamma

__all__ = ["GREATEST_GROUP", "directions", "enumerate_vertices"]

#: Octahedra of five neurons have 242 directions and thousands of vertices.
GREATEST_GROUP = 4
#: No entry of the inverse of an integer matrix with entries in {-1, 0, 1} is larger, k <= 4.
_INVERSE = 4
#: Limits are raised by so many times less than what is merged: ties go, repeats are merged again.
_SHIFT = 1 / 32
#: Groups handled at a time.
_CHUNK = 16


@cache
def directions(size: int) -> Float[np.ndarray, "directions k"]:
    """All of `{-1, 0, 1}^k` but zero: each direction is followed by its opposite."""
    every = [c for c in product((1.0, 0.0, -1.0), repeat=size) if next(filter(None, c), 0) > 0]
    return np.array([d for c in every for d in (c, tuple(-e for e in c))])


def enumerate_vertices(
    limits: Float[np.ndarray, "G directions"], size: int
) -> tuple[Float[np.ndarray, "G V k"], Float[np.ndarray, "G"]]:
    """Vertices of each octahedron's pieces.

    Args:
        limits: `U_c` in the order of `directions`; the octahedra hold at least one point.
        size: k, from two to four.

    Returns:
        vertices, padded by repeating one of the group's, and `tolerance`: within it, entry by
        entry, of every exact vertex lies a returned one.

    Raises:
        ValueError: another group size, or an octahedron without any point.
    """
    if not 2 <= size <= GREATEST_GROUP:
        raise ValueError(f"size: groups of {size}, but 2 to {GREATEST_GROUP} are possible")
    # From the least reach on no product underflows: a tolerance is never zero.
    reach = np.abs(limits).max(axis=1, initial=TINY)
    generic = limits + _SHIFT * VERTEX_CELL * reach[:, None] * _shifts(size)
    reach = np.abs(generic).max(axis=1, initial=TINY)
    error = _INVERSE * size * gamma(size + 4) * reach
    cell = VERTEX_CELL * reach
    found = []
    for first in range(0, len(limits), _CHUNK):
        part = slice(first, first + _CHUNK)
        found.append(_packed(*_pieces(generic[part], error[part], size), cell[part]))
    width = max((part.shape[1] for part in found), default=1)
    vertices = [
        np.concatenate([p, np.repeat(p[:, :1], width - p.shape[1], axis=1)], 1) for p in found
    ]
    stacked = np.concatenate(vertices) if vertices else np.zeros((0, 1, size))
    return stacked, error + 2 * cell


@cache
def _shifts(size: int) -> Float[np.ndarray, "directions"]:
    """Of each direction a number between zero and one, sums of which do not tie."""
    return np.asarray(np.random.default_rng(size).uniform(size=3**size - 1))


def _pieces(
    limits: Float[np.ndarray, "G directions"], error: Float[np.ndarray, "G"], size: int
) -> tuple[Int[np.ndarray, "M"], Float[np.ndarray, "M k"]]:
    """Vertices of the faces at every set of coordinates that are zero: their groups, and they."""
    groups, every = [], []
    for number in range(size + 1):
        for free in combinations(range(size), number):
            faces = limits[:, _continued(size, free)].min(axis=2)
            group, found = _octahedron(faces, 4 * size * error, number)
            points = np.zeros((len(found), size))
            points[:, free] = found
            groups.append(group)
            every.append(points)
    return np.concatenate(groups), np.concatenate(every)


@cache
def _continued(size: int, free: tuple[int, ...]) -> Int[np.ndarray, "directions ways"]:
    """For each direction in the free coordinates, and zero, all that continue it to the others."""
    number = {tuple(c): place for place, c in enumerate(directions(size).tolist())}
    rest = [i for i in range(size) if i not in free]
    found = []
    for inner in directions(len(free)).tolist() if free else [[]]:
        ways = []
        for outer in product((-1.0, 0.0, 1.0), repeat=len(rest)):
            whole = dict(zip((*free, *rest), (*inner, *outer), strict=True))
            ways.append(number.get(tuple(whole[i] for i in range(size)), -1))
        found.append([way for way in ways if way >= 0])
    return np.array(found)


def _octahedron(
    limits: Float[np.ndarray, "G directions"], room: Float[np.ndarray, "G"], size: int
) -> tuple[Int[np.ndarray, "M"], Float[np.ndarray, "M k"]]:
    """The vertices of octahedra, and of which group each is.

    Args:
        limits: of no direction but zero, where the octahedron is in no dimension.
        room: what a vertex may seem to violate.
        size: the dimension.
    """
    if not size:
        inside = np.flatnonzero((limits >= -room[:, None]).all(axis=1))
        return inside, np.zeros((len(inside), 0))
    group, chosen = _systems(limits, room, size)
    matrices = directions(size)[chosen]
    determinants = np.rint(np.linalg.det(matrices))
    regular = determinants != 0
    group, chosen, determinants = group[regular], chosen[regular], determinants[regular]
    adjugates = np.rint(np.linalg.inv(matrices[regular]) * determinants[:, None, None])
    solver = adjugates / determinants[:, None, None]
    points = np.einsum("mkj,mj->mk", solver, limits[group[:, None], chosen])
    values = points @ directions(size).T
    kept = (values <= limits[group] + room[group, None]).all(axis=1)
    return group[kept], points[kept]


def _systems(
    limits: Float[np.ndarray, "G directions"], room: Float[np.ndarray, "G"], size: int
) -> tuple[Int[np.ndarray, "S"], Int[np.ndarray, "S k"]]:
    """Directions that may meet in a vertex, `size` of them at a time, and of which group."""
    meet = _meeting(limits, room, size)
    places = np.arange(limits.shape[1])
    group, first = np.nonzero(meet[:, places, places])
    after = meet & (places[:, None] < places)
    chosen, common = first[:, None], after[group, first]
    for _ in range(1, size):
        row, last = np.nonzero(common)
        group, chosen = group[row], np.column_stack([chosen[row], last])
        common = common[row] & after[group, last]
    return group, chosen


def _meeting(
    limits: Float[np.ndarray, "G directions"], room: Float[np.ndarray, "G"], size: int
) -> Bool[np.ndarray, "G directions directions"]:
    """Which pairs of directions no other pair with the same sum keeps from being tight."""
    left, right, starts, number = _pairs(size)
    wide = np.column_stack([limits, np.zeros(len(limits))])
    sums = wide[:, left] + wide[:, right]
    least = np.minimum.reduceat(sums, starts, axis=1)
    count = limits.shape[1]
    found = np.zeros((len(limits), count + 1, count + 1), dtype=bool)
    found[:, left, right] = sums <= least[:, number] + room[:, None]
    found |= found.transpose(0, 2, 1)
    places = np.arange(count)
    tight = found[:, places, places] & found[:, places, count]
    meet = found[:, :count, :count] & tight[:, :, None] & tight[:, None]
    meet[:, places, places ^ 1] = False  # opposites are parallel
    return meet


@cache
def _pairs(size: int) -> tuple[NDArray[np.int64], ...]:
    """All pairs of directions, zero the last of them, in order of their sums.

    The first and the second of each pair, where each sum begins, and the number of each pair's sum.
    """
    ways = np.concatenate([directions(size), np.zeros((1, size))])
    left, right = np.triu_indices(len(ways))
    sums = (ways[left] + ways[right] + 2) @ 5.0 ** np.arange(size)
    order = np.argsort(sums, kind="stable")
    _, starts, number = np.unique(sums[order], return_index=True, return_inverse=True)
    return left[order], right[order], starts, number


def _packed(
    group: Int[np.ndarray, "M"], found: Float[np.ndarray, "M k"], cell: Float[np.ndarray, "G"]
) -> Float[np.ndarray, "G V k"]:
    """The points of each group without repeats, padded with its first one.

    Points that share a cell stand for one another.
    """
    width = np.maximum(cell, np.finfo(np.float64).tiny)[group]
    keys = np.column_stack([group, np.rint(found / width[:, None])])
    order = np.lexsort(keys.T[::-1])
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    group, found = group[order[fresh]], found[order[fresh]]
    count = np.bincount(group, minlength=len(cell))
    if not count.all():
        raise ValueError("limits: an octahedron is empty, so its bounds cannot all hold")
    first = np.cumsum(count) - count
    slot = np.arange(len(group)) - first[group]
    result = np.repeat(found[first][:, None], int(count.max(initial=1)), axis=1)
    result[group, slot] = found
    return cast(NDArray[np.float64], result)
