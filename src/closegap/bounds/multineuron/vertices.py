"""Vertices of octahedra cut by the coordinate planes, many groups at a time.

An octahedron is `{z : c . z <= U_c}` over all directions `c` in `{-1, 0, 1}^k` but zero. Cut along
the planes `z_i = 0` it falls into pieces on which ReLUs are linear, so that the hull of
`{(z, act(z))}` is the hull of the pieces' vertices, lifted.

Why every vertex is found. A vertex of a piece solves `k` independent equations out of
`c . z = U_c` and `z_i = 0`, and lies in the octahedron. All such systems are solved. Their matrices
have entries in {-1, 0, 1}: for `k <= 3` the determinant is at most 4 and the adjugate has entries
of at most 2, all integers, so none is ill-conditioned: the inverse's entries are at most 2, each
rounded once, and the computed solution is off by at most `gamma(k + 4) * 2 * sum |U|` over the
system's planes. A solution is kept when no inequality is violated by more than rounding explains;
so the computed twin of a vertex is never dropped, and a twin within `tolerance` of each vertex is
returned. Points kept besides make a hull larger, never smaller.

Source of the hulls: Mueller et al., PRIMA, POPL 2022; Ferrari et al., ICLR 2022.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations, product
from typing import cast

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.core.numerics import TINY, VERTEX_CELL, gamma

__all__ = ["GREATEST_GROUP", "directions", "enumerate_vertices"]

#: Systems of equations grow like `binomial(3^k + k - 1, k)`: 45, 3654, then two million.
GREATEST_GROUP = 3
#: Groups handled at a time.
_CHUNK = 64


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
        size: k, two or three.

    Returns:
        vertices, padded by repeating one of the group's, and `tolerance`: within it, entry by
        entry, of every exact vertex lies a returned one.

    Raises:
        ValueError: another group size, or an octahedron without any point.
    """
    if not 2 <= size <= GREATEST_GROUP:
        raise ValueError(f"size: groups of {size}, but 2 or {GREATEST_GROUP} are possible")
    # From the least reach on no product underflows: a tolerance is never zero.
    reach = np.abs(limits).max(axis=1, initial=TINY)
    error = 2.0 * size * gamma(size + 4) * reach
    found = [
        _chunk(limits[first : first + _CHUNK], error[first : first + _CHUNK], size)
        for first in range(0, len(limits), _CHUNK)
    ]
    width = max((part.shape[1] for part in found), default=1)
    vertices = [
        np.concatenate([p, np.repeat(p[:, :1], width - p.shape[1], axis=1)], 1) for p in found
    ]
    cell = VERTEX_CELL * reach
    stacked = np.concatenate(vertices) if vertices else np.zeros((0, 1, size))
    return stacked, error + 2 * cell


def _chunk(
    limits: Float[np.ndarray, "G directions"], error: Float[np.ndarray, "G"], size: int
) -> Float[np.ndarray, "G V k"]:
    solver, planes = _systems(size)
    sides = np.concatenate([limits, np.zeros((len(limits), size))], axis=1)
    points = np.einsum("skj,gsj->gsk", solver, sides[:, planes])
    values = points @ directions(size).T
    room = (4 * size * error)[:, None, None]
    kept = (values <= limits[:, None] + room).all(axis=2)
    return _packed(points, kept, VERTEX_CELL * np.abs(limits).max(axis=1, initial=0.0))


@cache
def _systems(size: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Inverses `[systems, k, k]` of all independent systems, and the planes in each."""
    rows = np.concatenate([directions(size), np.eye(size)])
    chosen = np.array(list(combinations(range(len(rows)), size)))
    determinants = np.rint(np.linalg.det(rows[chosen]))
    chosen, determinants = chosen[determinants != 0], determinants[determinants != 0]
    adjugates = np.rint(np.linalg.inv(rows[chosen]) * determinants[:, None, None])
    return adjugates / determinants[:, None, None], chosen


def _packed(
    points: Float[np.ndarray, "G S k"], kept: NDArray[np.bool_], cell: Float[np.ndarray, "G"]
) -> Float[np.ndarray, "G V k"]:
    """The kept points of each group without repeats, padded with its first one.

    Points that share a cell stand for one another.
    """
    group, system = np.nonzero(kept)
    found = points[group, system]
    width = np.maximum(cell, np.finfo(np.float64).tiny)[group]
    keys = np.column_stack([group, np.rint(found / width[:, None])])
    order = np.lexsort(keys.T[::-1])
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (keys[order[1:]] != keys[order[:-1]]).any(axis=1)
    group, found = group[order[fresh]], found[order[fresh]]
    count = np.bincount(group, minlength=len(points))
    if not count.all():
        raise ValueError("limits: an octahedron is empty, so its bounds cannot all hold")
    first = np.cumsum(count) - count
    slot = np.arange(len(group)) - first[group]
    result = np.repeat(found[first][:, None], int(count.max(initial=1)), axis=1)
    result[group, slot] = found
    return cast(NDArray[np.float64], result)
