"""Columns of the differences in a cone."""

from __future__ import annotations

import math

import numpy as np

from closegap.encode.builder import ModelBuilder
from closegap.encode.distances.base import Array, DistanceTerms, Ground, reach
from closegap.mip.model import Cone
from closegap.specs.objectives import L2Distance

__all__ = ["add_l2"]


def add_l2(objective: L2Distance, ground: Ground, builder: ModelBuilder) -> DistanceTerms:
    """See `DistanceRule`. The first tangents: the length is at least every difference."""
    low, high = reach(ground, builder)
    change = builder.add_columns(low, high)
    most = math.sqrt(float((np.maximum(np.abs(low), np.abs(high)) ** 2).sum()))
    length = builder.add_columns(np.zeros(1), np.full(1, most * 2))
    rows = builder.picked(ground.inputs) - builder.picked(change)
    builder.add_rows(rows, ground.image, ground.image)
    above = builder.picked(np.repeat(length, len(change)))
    for sign in (1.0, -1.0):
        builder.add_rows(above - builder.picked(change, sign), 0.0, np.inf)

    def fill(values: Array) -> None:
        values[change] = values[ground.inputs] - ground.image
        values[length] = np.linalg.norm(values[change])

    return DistanceTerms(length, np.ones(1), 0.0, fill, (Cone(change, int(length[0])),))
