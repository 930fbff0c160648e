"""Integer layers evaluated on packed bits: a sum of n signs is `n - 2 popcount(x xor w)`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from closegap.graph.binarized.records import Patches, SignLayer

__all__ = ["PackedLayer", "pack", "packed_layer"]

#: Words of a temporary array.
_BLOCK = 1 << 21


@dataclass(frozen=True, eq=False)
class PackedLayer:
    """A sign layer with its weights packed, 64 to a word.

    Attributes:
        layer: what it computes.
        weight: bits of the weights that are +1, `[C, W]`.
        used: bits of the weights that are not 0, `[C, W]`; `None` where none is 0.
        inside: bits that are not padding, `[P, W]`; `None` where none is.
    """

    layer: SignLayer
    weight: NDArray[np.uint64]
    used: NDArray[np.uint64] | None
    inside: NDArray[np.uint64] | None

    def sums(self, bits: Bool[np.ndarray, "B E"]) -> Int[np.ndarray, "B S"]:
        """The sums of signs that are given as bits (True is +1); exact."""
        patches = self.layer.patches
        count = len(patches.weight) * len(patches.gather) * self.weight.shape[1]
        step = max(1, _BLOCK // max(1, count))
        blocks = [self._block(bits[i : i + step]) for i in range(0, len(bits), step)]
        return np.concatenate(blocks) if blocks else np.zeros((0, patches.sums), np.int64)

    def _block(self, bits: NDArray[np.bool_]) -> NDArray[np.int64]:
        patches = self.layer.patches
        # Index -1, padding, reads an arbitrary bit, which `inside` masks.
        words = pack(bits[:, patches.gather])
        differ = words[:, None] ^ self.weight[None, :, None]
        if self.used is not None:
            differ &= self.used[None, :, None]
        if self.inside is not None:
            differ &= self.inside[None, None]
        missed = np.bitwise_count(differ).sum(axis=-1, dtype=np.int64)
        return np.asarray(self.layer.fan_in - 2 * missed.reshape(len(bits), -1))

    def signs(self, bits: Bool[np.ndarray, "B E"]) -> Bool[np.ndarray, "B U"]:
        """The layer's signs, from those of the layer before."""
        thresholds = self.layer.thresholds
        sums = self.sums(bits)[:, thresholds.taken]
        return thresholds.pooled(thresholds.sense * sums >= thresholds.low)


def pack(bits: Bool[np.ndarray, "... F"]) -> NDArray[np.uint64]:
    """The last axis packed into words, `[..., W]`; what is left of the last word is 0."""
    missing = -bits.shape[-1] % 64
    full = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, missing)]) if missing else bits
    return np.ascontiguousarray(np.packbits(full, axis=-1)).view(np.uint64)


def packed_layer(layer: SignLayer) -> PackedLayer:
    """The layer, packed."""
    patches: Patches = layer.patches
    used = pack(patches.weight != 0)
    inside = pack(patches.gather >= 0)
    return PackedLayer(
        layer,
        pack(patches.weight > 0),
        used if (patches.weight == 0).any() else None,
        inside if (patches.gather < 0).any() else None,
    )
