"""Every difference split into what is added and what is taken away."""

from __future__ import annotations

import numpy as np

from closegap.encode.builder import ModelBuilder
from closegap.encode.distances.base import Array, DistanceTerms, Ground, reach
from closegap.specs.objectives import L1Distance

__all__ = ["add_l1", "add_split"]


def add_l1(objective: L1Distance, ground: Ground, builder: ModelBuilder) -> DistanceTerms:
    """See `DistanceRule`."""
    return add_split(objective.weights_of(len(ground.inputs)), ground, builder)


def add_split(weights: Array, ground: Ground, builder: ModelBuilder) -> DistanceTerms:
    """`input - more + less = image`, at a cost of the weights for both."""
    low, high = reach(ground, builder)
    more = builder.add_columns(np.maximum(low, 0.0), np.maximum(high, 0.0))
    less = builder.add_columns(np.maximum(-high, 0.0), np.maximum(-low, 0.0))
    rows = builder.picked(ground.inputs) - builder.picked(more) + builder.picked(less)
    builder.add_rows(rows, ground.image, ground.image)

    def fill(values: Array) -> None:
        change = values[ground.inputs] - ground.image
        values[more], values[less] = np.maximum(change, 0.0), np.maximum(-change, 0.0)

    return DistanceTerms(np.concatenate([more, less]), np.tile(weights, 2), 0.0, fill)
