"""A distance query: network + image + label + norm. How near is the nearest misclassified input?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import OptionError
from closegap.core.numerics import FLOAT64_UNIT
from closegap.graph.network import Network
from closegap.specs.query import Query, robustness

__all__ = ["DistanceQuery"]


@dataclass(frozen=True, eq=False)
class DistanceQuery:
    """How far is it from an image to the nearest input in [0, 1] that loses its label?

    Attributes:
        network: with inputs in [0, 1].
        image: float32, where distances are measured from.
        label: the true class.
        norm: 1, 2 or infinity.
        target: the one class that counts as a loss; `None` for every other.

    Raises:
        OptionError: the norm is none of these.
    """

    network: Network
    image: NDArray[np.float32]
    label: int
    norm: float = math.inf
    target: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in (1, 2, math.inf):
            raise OptionError(f"norm must be 1, 2 or inf, got {self.norm}")

    def within(self, radius: float) -> Query:
        """The decision query: is the label kept within this distance?

        Raises:
            SpecError, OptionError: image, label, target or radius do not fit the network.
        """
        return robustness(
            self.network, self.image, self.label, radius, norm=self.norm, target=self.target
        )

    def distance(self, point: NDArray[np.floating]) -> float:
        """From the image to a point, rounded up so that `within` holds the point."""
        offset = np.abs(point.astype(np.float64).reshape(-1) - self.image.reshape(-1))
        if self.norm == math.inf:
            length = float(offset.max(initial=0.0))
        else:
            length = math.fsum(offset) if self.norm == 1 else math.sqrt(math.fsum(offset**2))
        return length * (1 + 16 * FLOAT64_UNIT) + 4 * FLOAT64_UNIT if length else 0.0
