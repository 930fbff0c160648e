"""Distances over the inputs of an encoded program: one a file, one line each in `RULES`.

A clause's program turned round: in place of the least margin within a distance, the least distance
with a margin of at most so much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.core.numerics import MIP_FEASIBILITY
from closegap.encode.builder import ModelBuilder
from closegap.encode.distances.base import DistanceRule, DistanceTerms, Ground
from closegap.encode.distances.l0 import add_l0
from closegap.encode.distances.l1 import add_l1
from closegap.encode.distances.l1_tv import add_l1_tv
from closegap.encode.distances.l2 import add_l2
from closegap.encode.distances.linf import add_linf
from closegap.encode.encoded import EncodedNetwork
from closegap.mip.model import Cone, Model
from closegap.specs.objectives import (
    L0Distance,
    L1Distance,
    L1TvDistance,
    L2Distance,
    LinfDistance,
    Objective,
)
from closegap.specs.region import Box

__all__ = [
    "RULES",
    "DistanceTerms",
    "EncodedDistance",
    "distance_over",
    "encode_distance",
    "fixed_integers",
    "tangents",
]

RULES: dict[type, DistanceRule] = {
    LinfDistance: add_linf,
    L2Distance: add_l2,
    L1Distance: add_l1,
    L0Distance: add_l0,
    L1TvDistance: add_l1_tv,
}


@dataclass(frozen=True, eq=False)
class EncodedDistance:
    """The least distance of an input of the program's box with a margin of at most `margin`.

    Attributes:
        model: the program.
        network: the clause's program in it; its columns come first.
        margin: asked of the clause.
        terms: the distance's columns.
    """

    model: Model
    network: EncodedNetwork
    margin: float
    terms: DistanceTerms

    def start_from(self, point: NDArray[np.floating]) -> Float[np.ndarray, "V"]:
        """A value for every column, by a forward pass from a point of the box."""
        values = np.zeros(self.model.columns)
        leading = self.network.start_from(point)
        values[: len(leading)] = leading
        self.terms.fill(values)
        return np.asarray(np.clip(values, self.model.lower, self.model.upper))

    def in_cell(self, values: Float[np.ndarray, "V"], margin: float) -> Model:
        """The program with its integers as they are at a point, and another margin."""
        row_upper = self.model.row_upper.copy()
        row_upper[self.network.model.rows] += margin - self.margin
        return replace(fixed_integers(self.model, values), row_upper=row_upper)


def encode_distance(
    network: EncodedNetwork,
    objective: Objective,
    image: Float[np.ndarray, "D"],
    *,
    margin: float = 0.0,
    limit: float = np.inf,
) -> EncodedDistance:
    """Minimise the distance where the clause's margin is at most `margin`.

    Every point of the box has a feasible completion whose objective is its distance, if its margin
    allows it and its distance is at most `limit`.

    Args:
        network: the clause's program over a box. Its bounds may hold within `limit` only.
        objective: the distance.
        image: from where, flat.
        margin: what the clause must come down to.
        limit: distances above it are left out.
    """
    builder = ModelBuilder.of(network.model)
    cost = csr_array(network.model.cost[None])
    builder.add_rows(cost, -np.inf, margin - network.model.constant)
    ground = Ground(network.inputs, np.asarray(image, dtype=np.float64))
    terms = RULES[type(objective)](objective, ground, builder)
    total = np.zeros(builder.columns)
    np.add.at(total, terms.columns, terms.cost)
    if np.isfinite(limit):
        slack = MIP_FEASIBILITY * (1 + abs(limit) + abs(terms.constant))
        builder.add_rows(csr_array(total[None]), -np.inf, limit - terms.constant + slack)
    model = replace(builder.build(total, terms.constant), cones=terms.cones)
    return EncodedDistance(model, network, margin, terms)


def distance_over(box: Box, objective: Objective, image: Float[np.ndarray, "D"]) -> Model:
    """The least distance over a flat box, whose inputs are the first columns; without cones.

    Args:
        box: flat; the image may lie outside.
        objective: the distance.
        image: from where, flat.
    """
    builder = ModelBuilder()
    inputs = builder.add_columns(box.lower, box.upper)
    terms = RULES[type(objective)](objective, Ground(inputs, image), builder)
    cost = np.zeros(builder.columns)
    np.add.at(cost, terms.columns, terms.cost)
    return builder.build(cost, terms.constant)


def fixed_integers(model: Model, values: Float[np.ndarray, "V"]) -> Model:
    """The program with its integers as they are, rounded, at a point."""
    whole, held = model.integer, np.rint(values)
    return replace(
        model,
        lower=np.where(whole, held, model.lower),
        upper=np.where(whole, held, model.upper),
        integer=np.zeros_like(whole),
    )


def tangents(cones: tuple[Cone, ...], point: Float[np.ndarray, "V"], above: float) -> csr_array:
    """Rows `g . v <= 0`, one for each cone that a point violates by more than `above`."""
    rows, columns, values = [], [], []
    count = 0
    for cone in cones:
        if cone.excess(point) <= above:
            continue
        steps = point[cone.columns]
        rows += [count] * (len(steps) + 1)
        columns += [*cone.columns.tolist(), cone.bound]
        values += [*(steps / np.linalg.norm(steps)).tolist(), -1.0]
        count += 1
    return csr_array((values, (rows, columns)), shape=(count, len(point)))
