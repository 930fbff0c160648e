"""Dense layers and convolutions as sums over patches."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.core.errors import EncodingError
from closegap.graph import ops
from closegap.graph.binarized.records import Patches

__all__ = ["fan_in", "patches_of", "signs_only"]


def patches_of(
    op: ops.Linear | ops.Conv, where: NDArray[np.int64], size: int, shape: tuple[int, ...]
) -> tuple[Patches, NDArray[np.int64]]:
    """The layer's sums, and for every entry of its output the sum it is.

    Args:
        op: the layer; what it adds is left out.
        where: of its input's shape: which entry is read, -1 for none.
        size: number of entries.
        shape: of its output.

    Raises:
        EncodingError: the convolution has groups.
    """
    if isinstance(op, ops.Linear):
        gather = where.reshape(-1, where.shape[-1])
        patches = Patches(gather, op.weight, size)
        return patches, np.arange(patches.sums).reshape(len(op.weight), -1).T.reshape(shape)
    if op.groups != 1:
        raise EncodingError("a convolution has groups")
    top, left, bottom, right = op.pads
    padded = np.pad(where, ((0, 0), (top, bottom), (left, right)), constant_values=-1)
    channels, height, width = op.weight.shape[1:]
    rows = op.stride[0] * np.arange(shape[1])[:, None] + op.dilation[0] * np.arange(height)
    columns = op.stride[1] * np.arange(shape[2])[:, None] + op.dilation[1] * np.arange(width)
    # [rows out, columns out, channels, kernel rows, kernel columns]
    gather = padded[
        np.arange(channels)[:, None, None],
        rows[:, None, None, :, None],
        columns[None, :, None, None, :],
    ].reshape(shape[1] * shape[2], -1)
    patches = Patches(gather, op.weight.reshape(len(op.weight), -1), size)
    return patches, np.arange(patches.sums).reshape(shape)


def signs_only(patches: Patches, name: str) -> tuple[Patches, Float[np.ndarray, "C"]]:
    """The patches with weights in {-1, 0, 1}, and the factor of each channel.

    Raises:
        EncodingError: a row has weights of several sizes.
    """
    sizes = np.abs(patches.weight)
    scale = sizes.max(axis=1, initial=0.0)
    scale = np.where(scale == 0, 1.0, scale)
    if not ((sizes == 0) | (sizes == scale[:, None])).all():
        row = int(np.argmin(((sizes == 0) | (sizes == scale[:, None])).all(axis=1)))
        raise EncodingError(f"layer '{name}': the weights of row {row} are not all of one size")
    return Patches(patches.gather, np.sign(patches.weight), patches.size), scale


def fan_in(patches: Patches) -> Int[np.ndarray, "S"]:
    """How many entries each sum adds, weights of zero and padding left out."""
    read = (patches.gather >= 0).astype(np.int64)
    used = (patches.weight != 0).astype(np.int64)
    return np.asarray((used @ read.T).reshape(-1))
