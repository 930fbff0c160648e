"""Network inputs as pictures: their layout, their brightness, and the signed difference."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Shaped, UInt8

__all__ = [
    "DIVERGING",
    "SHORTEST_SIDE",
    "brightness",
    "change",
    "difference",
    "enlarged",
    "layout",
    "shade",
]

#: Purple (darker) over white (no change) to orange (brighter): safe for the colour-blind, and
#: apart from the colours of the verdicts. Evenly spaced from -1 to 1.
DIVERGING: tuple[tuple[int, int, int], ...] = (
    (84, 39, 136),
    (153, 142, 195),
    (247, 247, 247),
    (241, 163, 64),
    (166, 86, 0),
)

#: Smaller sides are lists of measurements, not pictures.
SHORTEST_SIDE = 4
_SHORTEST_FLAT_SIDE = 8


def layout(
    values: Shaped[np.ndarray, "..."], *, channels_last: bool = False
) -> Shaped[np.ndarray, "height width channels"] | None:
    """See a network input as a picture: `[H, W, 1]` or `[H, W, 3]`, or `None` if it is none.

    Axes of length 1 are ignored. Channels may stand first or last; flat inputs of n * n or
    3 * n * n entries (n >= 8) are square pictures, channels first unless it is said otherwise.
    """
    squeezed = np.squeeze(values)
    if squeezed.ndim == 1:
        squeezed = _unflattened(squeezed, channels_last=channels_last)
    if squeezed.ndim == 2:
        squeezed = squeezed[:, :, None]
    elif squeezed.ndim == 3 and squeezed.shape[0] == 3:
        squeezed = np.moveaxis(squeezed, 0, -1)
    if squeezed.ndim != 3 or squeezed.shape[2] not in (1, 3):
        return None
    return squeezed if min(squeezed.shape[:2]) >= SHORTEST_SIDE else None


def brightness(*inputs: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """The values shown as black and as white: `(0, 1)` where all lie in it, else their range."""
    finite = np.concatenate([v[np.isfinite(v)].ravel() for v in inputs])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (0.0, 1.0) if low >= 0.0 and high <= 1.0 else (low, high)


def shade(
    picture: Float[np.ndarray, "height width channels"], low: float, high: float
) -> UInt8[np.ndarray, "height width channels"]:
    """8-bit values, `low` black and `high` white; entries that are not finite are black."""
    span = high - low if high > low else 1.0
    scaled = (np.nan_to_num(picture.astype(np.float64), nan=low) - low) / span
    return np.rint(255 * np.clip(scaled, 0.0, 1.0)).astype(np.uint8)


def difference(
    clean: Float[np.ndarray, "height width channels"],
    witness: Float[np.ndarray, "height width channels"],
    scale: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """`witness - clean` in signed colours, full colour at `scale`; of three channels the largest.

    Raises:
        ValueError: `scale` is not a positive number.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"the scale of a difference must be positive, got {scale}")
    change = np.nan_to_num(witness.astype(np.float64) - clean.astype(np.float64))
    largest = np.take_along_axis(change, np.abs(change).argmax(axis=2)[:, :, None], axis=2)[:, :, 0]
    position = (np.clip(largest / scale, -1.0, 1.0) + 1.0) / 2.0
    anchors = np.linspace(0.0, 1.0, len(DIVERGING))
    channels = [np.interp(position, anchors, [c[k] for c in DIVERGING]) for k in range(3)]
    return np.rint(np.stack(channels, axis=2)).astype(np.uint8)


def change(
    clean: Float[np.ndarray, "height width channels"],
    witness: Float[np.ndarray, "height width channels"],
    scale: float,
) -> UInt8[np.ndarray, "height width 3"]:
    """`witness - clean`, full colour at `scale`: signed colours for grey pictures.

    Of a colour picture each channel is shown as it is, around a middle grey that is no change.

    Raises:
        ValueError: `scale` is not a positive number.
    """
    if clean.shape[2] == 1:
        return difference(clean, witness, scale)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"the scale of a difference must be positive, got {scale}")
    moved = np.nan_to_num(witness.astype(np.float64) - clean.astype(np.float64))
    return np.rint(127.5 + 127.5 * np.clip(moved / scale, -1.0, 1.0)).astype(np.uint8)


def enlarged(
    pixels: UInt8[np.ndarray, "height width channels"], times: int
) -> UInt8[np.ndarray, "height2 width2 channels"]:
    """Every pixel as a square of `times` x `times`."""
    return np.repeat(np.repeat(pixels, times, axis=0), times, axis=1)


def _unflattened(
    values: Shaped[np.ndarray, "D"], *, channels_last: bool
) -> Shaped[np.ndarray, "..."]:
    for channels in (1, 3):
        side = math.isqrt(values.size // channels)
        if side >= _SHORTEST_FLAT_SIDE and channels * side * side == values.size:
            if channels == 1:
                return values.reshape(side, side)
            shape = (side, side, channels) if channels_last else (channels, side, side)
            return values.reshape(shape)
    return values
