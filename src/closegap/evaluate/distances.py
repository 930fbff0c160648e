"""Least distances over a data set, one image after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from closegap.data import DataSet
from closegap.graph.network import Network
from closegap.specs.distance import DistanceQuery
from closegap.strategy.distance import DistanceResult, minimise_distance

__all__ = ["MeasuredImage", "measure_data"]


@dataclass(frozen=True, eq=False)
class MeasuredImage:
    """One image's bracket of the least distance."""

    index: int
    label: int
    result: DistanceResult

    def row(self) -> dict[str, object]:
        """For JSON: `upper` is null where no witness was found."""
        upper = self.result.upper
        return {
            "index": self.index,
            "label": self.label,
            "lower": self.result.lower,
            "upper": upper if math.isfinite(upper) else None,
            "verdict": "closed" if self.result.closed else "open",
            "seconds": self.result.seconds,
        }


def measure_data(
    network: Network, data: DataSet, norm: float, timeout: float, *, seed: int = 0
) -> Iterator[MeasuredImage]:
    """Bracket the distance of every image to its nearest counterexample.

    Args:
        network: in whose input shape the images are.
        data: images and labels.
        norm: 1, 2 or infinity.
        timeout: seconds an image.
        seed: of every random choice.
    """
    for place, index in enumerate(data.indices.tolist()):
        image = np.asarray(data.images[place], dtype=np.float32)
        query = DistanceQuery.of_norm(network, image, int(data.labels[place]), norm)
        result = minimise_distance(query, timeout=timeout, seed=seed)
        yield MeasuredImage(int(index), query.label, result)
