"""The split differences, and a column for each edge or each pixel's gradient."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from closegap.encode.builder import ModelBuilder
from closegap.encode.distances.base import Array, DistanceTerms, Ground
from closegap.encode.distances.l1 import add_split
from closegap.mip.model import Cone
from closegap.specs.objectives import L1TvDistance

__all__ = ["add_l1_tv"]

#: Rows of the first outer approximation of a gradient's length; short by at most 2 %.
_TANGENTS = 16


def add_l1_tv(objective: L1TvDistance, ground: Ground, builder: ModelBuilder) -> DistanceTerms:
    """See `DistanceRule`."""
    size = len(ground.inputs)
    split = add_split(np.ones(size), ground, builder)
    if objective.kappa == 0:
        return split
    add = _add_lengths if objective.isotropic else _add_edges
    variation = add(objective, ground, builder)

    def fill(values: Array) -> None:
        split.fill(values)
        variation.fill(values)

    before = float(objective.variation(ground.image)) if objective.of == "image" else 0.0
    return DistanceTerms(
        np.concatenate([split.columns, variation.columns]),
        np.concatenate([split.cost, variation.cost]),
        -objective.kappa * before,
        fill,
        variation.cones,
    )


def _steps(
    objective: L1TvDistance, ground: Ground, builder: ModelBuilder
) -> tuple[csr_array, Array]:
    """Differences along the edges, `rows @ columns - base`."""
    first, second = objective.grid.edges.T
    rows = builder.picked(ground.inputs[second]) - builder.picked(ground.inputs[first])
    base = ground.image[second] - ground.image[first]
    return rows, base if objective.of == "difference" else np.zeros(len(base))


def _add_edges(objective: L1TvDistance, ground: Ground, builder: ModelBuilder) -> DistanceTerms:
    count = len(objective.grid.edges)
    edges = builder.add_columns(np.zeros(count), np.full(count, 2.0))
    rows, base = _steps(objective, ground, builder)
    above = builder.picked(edges)
    builder.add_rows(above - rows, -base, np.inf)
    builder.add_rows(above + rows, base, np.inf)

    def fill(values: Array) -> None:
        values[edges] = np.abs(rows @ values[: rows.shape[1]] - base)

    return DistanceTerms(edges, np.full(count, objective.kappa), 0.0, fill)


def _add_lengths(objective: L1TvDistance, ground: Ground, builder: ModelBuilder) -> DistanceTerms:
    """Columns of the steps, and of the lengths of their pairs: under tangents, and in cones."""
    count = len(objective.grid.edges)
    steps = builder.add_columns(np.full(count, -2.0), np.full(count, 2.0))
    sites, place = np.unique(objective.grid.sites, return_inverse=True)
    lengths = builder.add_columns(np.zeros(len(sites)), np.full(len(sites), 4.0))
    rows, base = _steps(objective, ground, builder)
    builder.add_rows(rows - builder.picked(steps), base, base)
    rightward = np.arange(count) < objective.grid.channels * objective.grid.height * (
        objective.grid.width - 1
    )
    for angle in 2 * np.pi * np.arange(_TANGENTS) / _TANGENTS:
        share = np.where(rightward, np.cos(angle), np.sin(angle))
        pairs = csr_array((share, (place, steps)), shape=(len(sites), builder.columns))
        builder.add_rows(builder.picked(lengths) - pairs, 0.0, np.inf)
    order = np.argsort(place, kind="stable")
    groups = np.split(steps[order], np.cumsum(np.bincount(place))[:-1])
    # A picture of one pixel has no step: no length, and one group that is empty.
    cones = tuple(Cone(g, int(t)) for g, t in zip(groups[: len(sites)], lengths, strict=True))

    def fill(values: Array) -> None:
        values[steps] = rows @ values[: rows.shape[1]] - base
        squares = np.bincount(place, values[steps] ** 2, minlength=len(sites))
        values[lengths] = np.sqrt(squares)

    return DistanceTerms(lengths, np.full(len(sites), objective.kappa), 0.0, fill, cones)
