"""A data set in memory: what every loader returns, and the checks they share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import DataError

__all__ = ["DataSet", "channels_first", "labels_of", "pixels_of"]

#: A last axis of this length holds channels: grey, RGB, RGBA.
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images with their labels.

    Attributes:
        images: float32 `[M, *shape]`, pixels in [0, 1]; `[M, C, H, W]` unless the source was flat
            or the set was fitted to a network.
        labels: int64 `[M]`, not negative.
        indices: int64 `[M]`, the index of each image in its original set, without repeats.
        name: of the set, for messages and records.
        class_names: one for each class, or empty.

    Raises:
        DataError: the set is empty, lengths differ, a pixel is not finite or leaves [0, 1], a label
            is negative or beyond the class names, or an index occurs twice.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    name: str
    class_names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        count = len(self.images)
        if count == 0:
            raise DataError(f"{self.name}: the data set is empty; nothing can be evaluated")
        if self.labels.shape != (count,) or self.indices.shape != (count,):
            raise DataError(
                f"{self.name}: {count} images need as many labels and indices, got labels "
                f"{self.labels.shape} and indices {self.indices.shape}"
            )
        self._check_pixels()
        self._check_labels()
        values, counts = np.unique(self.indices, return_counts=True)
        if (counts > 1).any():
            raise DataError(f"{self.name}: index {values[counts > 1][0]} belongs to two images")

    def _check_pixels(self) -> None:
        # A NaN fails the comparison too.
        good = (self.images >= 0) & (self.images <= 1)
        if good.all():
            return
        place = np.unravel_index(int(np.argmin(good)), good.shape)
        value = float(self.images[place])
        advice = "divide by 255 (or store uint8)" if value > 1 else "pixels must lie in [0, 1]"
        advice = advice if np.isfinite(value) else "remove or repair the image"
        raise DataError(
            f"{self.name}: image {self.indices[place[0]]} has a pixel {value:g} outside [0, 1]; "
            f"{advice}"
        )

    def _check_labels(self) -> None:
        most = len(self.class_names) - 1 if self.class_names else np.iinfo(np.int64).max
        bad = (self.labels < 0) | (self.labels > most)
        if bad.any():
            place = int(np.argmax(bad))
            classes = f"0..{most}" if self.class_names else "0, 1, ..."
            raise DataError(
                f"{self.name}: image {self.indices[place]} has label {self.labels[place]}, "
                f"which is not a class ({classes}); check the labels"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return tuple(int(n) for n in self.images.shape[1:])

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of images, labels and indices; where they came from does not count."""
        state = hashlib.sha256(repr(self.images.shape).encode())
        for array, dtype in ((self.images, "<f4"), (self.labels, "<i8"), (self.indices, "<i8")):
            state.update(np.ascontiguousarray(array, dtype=dtype).data)
        return state.hexdigest()


def pixels_of(images: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Images as float32: uint8 divided by 255 in float32, floats as they are.

    Raises:
        DataError: the images have another type.
    """
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    if images.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what does not fit is reported as a pixel outside [0, 1]
            return images.astype(np.float32)
    raise DataError(f"{name}: images must be uint8 or floating point, not {images.dtype}")


def labels_of(labels: NDArray[Any], name: str) -> NDArray[np.int64]:
    """Labels (or indices) as int64.

    Raises:
        DataError: a value is not an integer.
    """
    if labels.dtype.kind not in "iuf":
        raise DataError(f"{name}: labels must be integers, not {labels.dtype}")
    finite = bool(np.isfinite(labels).all())
    if not finite or (labels != np.rint(labels)).any():
        raise DataError(f"{name}: labels must be integers; found one that is not")
    return labels.astype(np.int64)


def channels_first(images: NDArray[Any]) -> NDArray[Any]:
    """Images `[M, C, H, W]` from `[M, H, W]`, `[M, H, W, C]` or `[M, C, H, W]`; flat ones stay.

    The last axis is taken for channels when its length is 1, 3 or 4 and the second axis's is not.
    """
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in _CHANNELS and images.shape[1] not in _CHANNELS:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return images
