"""Sums as sparse matrices; those of the first layer without rounding bounds, for searches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import csr_array

from closegap.graph.binarized.records import FirstLayer, Patches

__all__ = ["LinearSums", "linear_sums", "patch_matrix"]

#: Share of entries that are not zero above which dense products are faster.
_DENSE = 0.1


@dataclass(frozen=True, eq=False)
class LinearSums:
    """`sums = inputs @ matrix + constant`, `matrix` `[D, S]`."""

    matrix: csr_array
    constant: Float[np.ndarray, "S"]

    @cached_property
    def _product(self) -> NDArray[np.float64] | csr_array:
        """The matrix, dense unless most of it is zero."""
        inputs, sums = self.matrix.shape
        many = self.matrix.nnz > _DENSE * inputs * sums
        return self.matrix.toarray() if many else self.matrix

    def at(self, inputs: Float[np.ndarray, "B D"]) -> NDArray[np.float64]:
        """The sums `[B, S]`."""
        return np.asarray((self._product.T @ inputs.T).T + self.constant)

    def rise(self, change: csr_array) -> NDArray[np.float64]:
        """What changes of the inputs `[B, D]` add to the sums `[B, S]`."""
        if isinstance(self._product, np.ndarray):
            return np.asarray(change.toarray() @ self._product)
        return np.asarray((change @ self._product).toarray())


def patch_matrix(patches: Patches) -> csr_array:
    """The sums as a matrix of the entries, `[E, S]`."""
    channels, places = len(patches.weight), len(patches.gather)
    shape = channels, places, patches.gather.shape[1]
    values = np.broadcast_to(patches.weight[:, None, :], shape)
    used = np.broadcast_to(patches.gather >= 0, shape) & (values != 0)
    rows = np.broadcast_to(patches.gather, shape)[used]
    columns = np.arange(patches.sums).reshape(channels, places, 1)
    entries = values[used], (rows, np.broadcast_to(columns, shape)[used])
    return csr_array(entries, shape=(patches.size, patches.sums))


def linear_sums(layer: FirstLayer, inputs: int) -> LinearSums:
    """The sums of a layer that reads `inputs` inputs."""
    slope, offset = np.ones(len(layer.source)), np.zeros(len(layer.source))
    for factor, added in layer.steps:
        slope, offset = factor * slope, factor * offset + added
    sums = patch_matrix(layer.patches)
    read = np.flatnonzero(layer.source >= 0)
    chosen = csr_array((slope[read], (layer.source[read], read)), shape=(inputs, len(layer.source)))
    return LinearSums(csr_array(chosen @ sums), np.asarray(sums.T @ offset))
