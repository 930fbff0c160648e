"""A binary for each pixel that may change."""

from __future__ import annotations

import numpy as np

from closegap.encode.builder import ModelBuilder
from closegap.encode.distances.base import Array, DistanceTerms, Ground, reach
from closegap.specs.objectives import L0Distance

__all__ = ["add_l0"]


def add_l0(objective: L0Distance, ground: Ground, builder: ModelBuilder) -> DistanceTerms:
    """See `DistanceRule`. A difference goes no further than its column's range times the binary."""
    low, high = reach(ground, builder)
    changed = builder.add_binaries(objective.grid.pixels)
    owner = changed[objective.grid.pixel_of]
    inputs = builder.picked(ground.inputs)
    builder.add_rows(inputs - builder.picked(owner, high), -np.inf, ground.image)
    builder.add_rows(inputs - builder.picked(owner, low), ground.image, np.inf)

    def fill(values: Array) -> None:
        moved = values[ground.inputs] != ground.image
        values[changed] = 0.0
        values[owner[moved]] = 1.0

    return DistanceTerms(changed, np.ones(len(changed)), 0.0, fill)
