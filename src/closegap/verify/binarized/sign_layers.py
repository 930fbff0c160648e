"""Integer layers in batches: exact intervals forwards, one linear bound backwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from closegap.graph.binarized.linear_form import patch_matrix
from closegap.graph.binarized.products import FLOAT32_DIGITS
from closegap.graph.binarized.records import SignLayer

__all__ = ["Stage", "stage_of"]


@dataclass(frozen=True, eq=False)
class Stage:
    """A sign layer.

    All sums and their distances from thresholds are integers that the matrices' type holds exactly:
    float32, or float64 where they may be beyond 2^24.

    Attributes:
        layer: what it computes.
        matrix: `[E, S]`; where nothing is pooled a column a unit, with its sense, else one a sum.
        sizes: its absolute values.
        edges: the thresholds: `[U]`, or `[U, k]` where sums are pooled.
        pooled: whether they are.
    """

    layer: SignLayer
    matrix: Tensor
    sizes: Tensor
    edges: Tensor
    pooled: bool

    def signs(self, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Least and greatest sums relative to thresholds, and signs: +1, -1, or 0 for either.

        Args:
            before: signs of the layer before, `[B, E]`.

        Returns:
            the ends, each `[B, U]` (zeros where sums are pooled), and the signs.
        """
        given = before.to(self.matrix.dtype)
        middle, reach = given @ self.matrix, (given == 0).to(given.dtype) @ self.sizes
        low, high = middle - reach, middle + reach
        if not self.pooled:
            low, high = low - self.edges, high - self.edges
            return low, high, (low >= 0).to(before.dtype) - (high < 0).to(before.dtype)
        thresholds = self.layer.thresholds
        taken, sense = torch.from_numpy(thresholds.taken), torch.from_numpy(thresholds.sense)
        ends = sense * low[:, taken], sense * high[:, taken]
        some = torch.from_numpy(thresholds.any_of)
        met = [end >= self.edges for end in (torch.minimum(*ends), torch.maximum(*ends))]
        on, maybe = (torch.where(some, m.any(dim=2), m.all(dim=2)) for m in met)
        zero = given.new_zeros(on.shape)
        return zero, zero, on.to(before.dtype) - (~maybe).to(before.dtype)

    def back(
        self, slope: Tensor, ends: tuple[Tensor, Tensor], free: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`slope . h` beyond `-|slope|` for the free units, linear in the signs before.

        Args:
            slope: `[B, U]`.
            ends: of the sums, as `signs` gives them.
            free: which units may have either sign.
            share: of the greatest coefficient, in [0, 1).

        Returns:
            the slope `[B, E]`, what is added `[B]`, and the sum of absolute terms `[B]`.
        """
        if self.pooled:
            nothing = slope.new_zeros(len(slope))
            return slope.new_zeros(len(slope), self.matrix.shape[0]), nothing, nothing
        low, high = ends
        width = torch.where(slope > 0, high + 2, -low)
        # Open units have high >= 0 and low <= -2.
        steep = torch.where(free, 2 * share * slope / torch.where(free, width, 1.0), 0.0)
        edges = torch.where(free, self.edges.to(slope.dtype), 0.0)
        rise = torch.where(slope > 0, 2.0, 0.0) - edges
        reach = self.sizes.sum(dim=0).to(slope.dtype)
        size = (steep.abs() * (2 + edges.abs() + reach)).sum(dim=1)
        return steep @ self.matrix.T.to(slope.dtype), (steep * rise).sum(dim=1), size


def stage_of(layer: SignLayer) -> Stage:
    """The layer with its matrix."""
    thresholds, matrix = layer.thresholds, patch_matrix(layer.patches)
    pooled = thresholds.taken.shape[1] > 1
    edges = thresholds.low
    if not pooled:
        taken = thresholds.taken[:, 0]
        matrix = csr_array(
            matrix[:, taken].multiply(thresholds.sense[:, 0][None].astype(np.float64))
        )
        edges = edges[:, 0]
    edge = np.abs(edges[np.isfinite(edges)]).max(initial=0.0)
    largest = float(abs(matrix).sum(axis=0).max(initial=0.0)) + edge
    kind = torch.float32 if largest <= 2**FLOAT32_DIGITS else torch.float64
    dense = torch.from_numpy(matrix.toarray()).to(kind)
    return Stage(layer, dense, dense.abs(), torch.from_numpy(edges).to(kind), pooled)
