"""The first layer's sums as one sparse matrix: for searches, which need no rounding bounds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.graph.binarized.records import FirstLayer

__all__ = ["LinearSums", "linear_sums"]


@dataclass(frozen=True, eq=False)
class LinearSums:
    """`sums = inputs @ matrix + constant`, `matrix` `[D, S]`."""

    matrix: csr_array
    constant: Float[np.ndarray, "S"]

    def at(self, inputs: Float[np.ndarray, "B D"]) -> NDArray[np.float64]:
        """The sums `[B, S]`."""
        return np.asarray((self.matrix.T @ inputs.T).T + self.constant)


def linear_sums(layer: FirstLayer, inputs: int) -> LinearSums:
    """The sums of a layer that reads `inputs` inputs."""
    slope, offset = np.ones(len(layer.source)), np.zeros(len(layer.source))
    for factor, added in layer.steps:
        slope, offset = factor * slope, factor * offset + added
    gather, weight = layer.patches.gather, layer.patches.weight
    inside = gather >= 0
    constant = weight @ np.where(inside, offset[gather], 0.0).T
    source = np.where(inside, layer.source[gather], -1)
    values = weight[:, None, :] * slope[gather][None]
    columns = np.arange(layer.patches.sums).reshape(len(weight), -1, 1)
    used = np.broadcast_to(source >= 0, values.shape) & (values != 0)
    rows = np.broadcast_to(source, values.shape)[used]
    entries = values[used], (rows, np.broadcast_to(columns, values.shape)[used])
    shape = inputs, layer.patches.sums
    return LinearSums(csr_array(entries, shape=shape), constant.reshape(-1))
