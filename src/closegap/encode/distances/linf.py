"""One column above every difference."""

from __future__ import annotations

import numpy as np

from closegap.encode.builder import ModelBuilder
from closegap.encode.distances.base import Array, DistanceTerms, Ground, reach
from closegap.specs.objectives import LinfDistance

__all__ = ["add_linf"]


def add_linf(objective: LinfDistance, ground: Ground, builder: ModelBuilder) -> DistanceTerms:
    """See `DistanceRule`."""
    most = max(float(np.abs(side).max(initial=0.0)) for side in reach(ground, builder))
    column = builder.add_columns(np.zeros(1), np.full(1, most))
    inputs = builder.picked(ground.inputs)
    radius = builder.picked(np.repeat(column, len(ground.inputs)))
    builder.add_rows(inputs - radius, -np.inf, ground.image)
    builder.add_rows(inputs + radius, ground.image, np.inf)

    def fill(values: Array) -> None:
        values[column] = np.abs(values[ground.inputs] - ground.image).max(initial=0.0)

    return DistanceTerms(column, np.ones(1), 0.0, fill)
