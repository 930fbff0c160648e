"""Sums over patches as matrix products, with the batch last: rows of it are copied whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import NDArray

from closegap.graph.binarized.records import Patches, SignLayer, Thresholds

__all__ = [
    "FLOAT32_DIGITS",
    "FLOAT64_DIGITS",
    "PatchIndex",
    "ProductLayer",
    "blocks",
    "extreme",
    "product_layer",
]

#: float32 and float64 hold integers exactly up to two to these.
FLOAT32_DIGITS, FLOAT64_DIGITS = 24, 53
#: Numbers of the copied patches and of the sums that are held at a time: they stay in the cache.
_PATCH_BLOCK, _SUM_BLOCK = 1 << 18, 1 << 21


@dataclass(frozen=True, eq=False)
class PatchIndex:
    """Where patches read, ready to be copied from entries `[E, B]`.

    Attributes:
        rows: entry of each place of a patch, `[F, P]`; E, a row of zeros, where it is padding.
        padded: whether any is.
    """

    rows: NDArray[np.int64]
    padded: bool

    @staticmethod
    def of(patches: Patches) -> PatchIndex:
        """The index of these patches."""
        rows = np.where(patches.gather < 0, patches.size, patches.gather).T
        return PatchIndex(np.ascontiguousarray(rows), bool((patches.gather < 0).any()))

    def sums(
        self, weight: Float[np.ndarray, "C F"], entries: Float[np.ndarray, "E B"]
    ) -> Float[np.ndarray, "S B"]:
        """All sums, computed in the arrays' common type, in any order of addition."""
        size, places = self.rows.shape
        batch = entries.shape[1]
        if self.padded:
            entries = np.concatenate([entries, np.zeros((1, batch), entries.dtype)])
        sums = np.empty((len(weight), places, batch), entries.dtype)
        step = max(1, _PATCH_BLOCK // max(1, size * batch))
        for begin in range(0, places, step):
            part = entries.take(self.rows[:, begin : begin + step], axis=0)
            product = weight @ part.reshape(size, part.shape[1] * batch)
            sums[:, begin : begin + step] = product.reshape(len(weight), part.shape[1], batch)
        return sums.reshape(len(weight) * places, batch)


@dataclass(frozen=True, eq=False)
class ProductLayer:
    """A sign layer in a type that holds its sums and their distances from thresholds exactly.

    Attributes:
        layer: what it computes.
        index: of its patches.
        weight: `[C, F]`.
        sense, low: of the thresholds, `[U, k, 1]`.
    """

    layer: SignLayer
    index: PatchIndex
    weight: NDArray[np.floating[Any]]
    sense: NDArray[np.floating[Any]]
    low: NDArray[np.floating[Any]]

    def slack(self, bits: Bool[np.ndarray, "B E"]) -> Float[np.ndarray, "B U"]:
        """How far each unit is from its threshold, exactly: +1 iff not negative."""
        thresholds = self.layer.thresholds
        slack = np.empty((thresholds.units, len(bits)), self.weight.dtype)
        for part in blocks(len(bits), self.layer.patches.sums):
            slack[:, part] = extreme(thresholds, self._each(bits[part]))
        return slack.T

    def signs(self, bits: Bool[np.ndarray, "B E"]) -> Bool[np.ndarray, "B U"]:
        """The layer's signs, from those of the layer before (True is +1)."""
        return self.slack(bits) >= 0

    def _each(self, bits: NDArray[np.bool_]) -> NDArray[np.floating[Any]]:
        entries = np.ascontiguousarray(bits.T).astype(self.weight.dtype)
        entries *= 2
        entries -= 1
        each = self.index.sums(self.weight, entries)[self.layer.thresholds.taken]
        each *= self.sense
        each -= self.low
        return np.asarray(each)


def product_layer(layer: SignLayer) -> ProductLayer:
    """The layer, ready for products: in float32 where that holds every number exactly."""
    thresholds, weight = layer.thresholds, layer.patches.weight
    edges = np.abs(thresholds.low[np.isfinite(thresholds.low)])
    # Partial sums are integers of at most as many as there are terms, in any order of addition.
    most = weight.shape[1] + float(edges.max(initial=0.0))
    kind = np.float32 if most <= 2**FLOAT32_DIGITS else np.float64
    return ProductLayer(
        layer,
        PatchIndex.of(layer.patches),
        weight.astype(kind),
        thresholds.sense[..., None].astype(kind),
        thresholds.low[..., None].astype(kind),
    )


def blocks(batch: int, sums: int) -> list[slice]:
    """Parts of a batch whose sums are held at a time."""
    step = max(1, _SUM_BLOCK // max(1, sums))
    return [slice(begin, begin + step) for begin in range(0, batch, step)]


def extreme(
    thresholds: Thresholds, each: Float[np.ndarray, "U k B"] | Bool[np.ndarray, "U k B"]
) -> Float[np.ndarray, "U B"] | Bool[np.ndarray, "U B"]:
    """What decides each unit: the greatest of its conditions, or the least."""
    if each.shape[1] == 1:
        return each[:, 0]
    if thresholds.any_of.all():
        return np.asarray(each.max(axis=1))
    least = each.min(axis=1)
    return np.asarray(np.where(thresholds.any_of[:, None], each.max(axis=1), least))
