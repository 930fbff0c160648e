"""How much a change of a picture shows, both pictures rounded to 8 bits first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.core.errors import DataError

__all__ = ["PictureMetrics", "on_grid", "picture_metrics"]

_LEVELS = 255
#: Side of the windows of SSIM; of smaller pictures the greatest odd one that fits, of 3 at least.
_WINDOW, _LEAST_WINDOW = 7, 3
#: Invisible is a change of at most this, and so many local standard deviations more.
_FLOOR, _DEVIATIONS = 0.05, 1.0


@dataclass(frozen=True)
class PictureMetrics:
    """Of one changed picture beside its clean one.

    Attributes:
        pixels: changed ones; a pixel counts once, whatever its channels.
        sparsity: percent of the entries (channels counted apart) that did not change.
        psnr: peak signal-to-noise ratio in dB; infinity where nothing changed.
        ssim: mean structural similarity over 7x7 windows, of a smaller picture over the greatest
            odd ones that fit, 1 where nothing changed; NaN for a picture with a side below 3.
        invisibility: percent of the changed entries whose change is at most 0.05 plus the standard
            deviation of the clean picture in the 3x3 window around; 100 where nothing changed.
    """

    pixels: int
    sparsity: float
    psnr: float
    ssim: float
    invisibility: float


def on_grid(picture: Float[np.ndarray, "..."]) -> NDArray[np.float64]:
    """Rounded to the nearest multiple of 1/255 in [0, 1]."""
    levels = np.rint(np.asarray(picture, dtype=np.float64) * _LEVELS)
    return np.asarray(np.clip(levels, 0, _LEVELS) / _LEVELS)


def picture_metrics(
    clean: Float[np.ndarray, "..."], changed: Float[np.ndarray, "..."]
) -> PictureMetrics:
    """Measure a change.

    Args:
        clean: `[C, H, W]`, in [0, 1].
        changed: likewise.

    Raises:
        DataError: they are not pictures `[C, H, W]` of one shape.
    """
    if clean.shape != changed.shape or clean.ndim != 3:
        raise DataError(
            f"metrics compare two pictures [C, H, W], got shapes {clean.shape}, {changed.shape}"
        )
    before, after = on_grid(clean), on_grid(changed)
    offset = np.abs(after - before)
    moved = offset > 1 / (2 * _LEVELS)
    hidden = offset <= _FLOOR + _DEVIATIONS * _deviations(before)
    error = float(np.mean(offset**2))
    return PictureMetrics(
        pixels=int(moved.any(axis=0).sum()),
        sparsity=100.0 * float(1 - moved.mean()),
        psnr=-10 * math.log10(error) if error > 0 else math.inf,
        ssim=_similarity(before, after),
        invisibility=100.0 * float(hidden[moved].mean()) if moved.any() else 100.0,
    )


def _deviations(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every entry, the standard deviation in the 3x3 window around it, edges repeated."""
    padded = np.pad(picture, ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.asarray(windows.std(axis=(-2, -1)))


def _similarity(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    side = min(before.shape[1:])
    window = min(_WINDOW, side if side % 2 else side - 1)
    if window < _LEAST_WINDOW:
        return math.nan
    from skimage.metrics import structural_similarity  # only where a picture is measured

    return float(
        structural_similarity(before, after, win_size=window, data_range=1.0, channel_axis=0)
    )
