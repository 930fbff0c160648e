"""Which signs are fixed when some of those before them are: exact integer intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from closegap.graph.binarized.linear_form import patch_matrix
from closegap.graph.binarized.records import SignLayer

__all__ = ["IntervalLayer", "interval_layer"]


@dataclass(frozen=True, eq=False)
class IntervalLayer:
    """A sign layer with its sums as a matrix.

    Attributes:
        layer: what it computes.
        matrix: `[E, S]`, integers: beyond 1 where a sum reads an entry several times.
        sizes: its absolute values.
    """

    layer: SignLayer
    matrix: csr_array
    sizes: csr_array

    def sums(
        self, signs: Int[np.ndarray, "B E"]
    ) -> tuple[Int[np.ndarray, "B S"], Int[np.ndarray, "B S"]]:
        """Least and greatest sums where signs are +1, -1, or 0 for either."""
        middle = (self.matrix.T @ signs.T).T
        reach = (self.sizes.T @ (signs == 0).astype(np.int64).T).T
        return np.asarray(middle - reach), np.asarray(middle + reach)

    def signs(self, signs: Int[np.ndarray, "B E"]) -> Int[np.ndarray, "B U"]:
        """The layer's signs: +1, -1, or 0 for either."""
        thresholds = self.layer.thresholds
        ends = [thresholds.sense * sums[:, thresholds.taken] for sums in self.sums(signs)]
        on = thresholds.pooled(np.minimum(*ends) >= thresholds.low)
        off = ~thresholds.pooled(np.maximum(*ends) >= thresholds.low)
        return np.where(on, 1, np.where(off, -1, 0))


def interval_layer(layer: SignLayer) -> IntervalLayer:
    """The layer with its matrix."""
    matrix = patch_matrix(layer.patches).astype(np.int64)
    return IntervalLayer(layer, matrix, csr_array(abs(matrix)))
