"""A distance as a linear function of columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.encode.builder import ModelBuilder
from closegap.mip.model import Cone

__all__ = ["Array", "DistanceRule", "DistanceTerms", "Ground", "reach"]

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ground:
    """Where the distance is measured: the columns of the inputs, and the clean image `[D]`."""

    inputs: NDArray[np.int64]
    image: Array


@dataclass(frozen=True, eq=False)
class DistanceTerms:
    """`constant + cost @ v[columns]`, at its least over the columns that were added.

    Attributes:
        columns: those that cost something.
        cost: of each; not negative.
        constant: added.
        cones: that the columns must lie in.
        fill: sets the added columns to their best values, from the inputs in `v [V]`.
    """

    columns: NDArray[np.int64]
    cost: Array
    constant: float
    fill: Callable[[Array], None]
    cones: tuple[Cone, ...] = ()


#: Adds the columns and rows of an objective, whose class is the rule's.
DistanceRule: TypeAlias = Callable[[Any, Ground, ModelBuilder], DistanceTerms]


def reach(ground: Ground, builder: ModelBuilder) -> tuple[Array, Array]:
    """The least and the greatest difference of each input in its column's range."""
    lower, upper = builder.lower[ground.inputs], builder.upper[ground.inputs]
    return lower - ground.image, upper - ground.image
