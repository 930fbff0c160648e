"""Bringing images into the shape that a network takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import DataError
from closegap.data.dataset import DataSet
from closegap.specs.objectives import Grid

__all__ = ["fit_to_network"]


def fit_to_network(
    dataset: DataSet,
    input_shape: tuple[int, ...],
    *,
    classes: int | None = None,
    channels_last: bool | None = None,
) -> DataSet:
    """The data set with its images in the network's input shape.

    Axes of length 1 come and go freely; `[C, H, W]` images are turned for a network that takes
    `[H, W, C]`; images are flattened in row-major order for flat networks, and flat images are
    shaped in the same order, so a flat image must already have the network's own axis order.
    With `channels_last` the flat one of both, image or network, is in that order.

    Args:
        dataset: what was loaded.
        input_shape: of the network, without the batch dimension.
        classes: how many outputs the network has, to check the labels against.
        channels_last: whether flat entries run over `[H, W, C]`, or over `[C, H, W]`; `None` for
            the order of whichever is not flat.

    Raises:
        DataError: the shapes cannot be brought together, or a label is not an output.
    """
    if classes is not None:
        _check_classes(dataset, classes)
    images, shape = dataset.images, dataset.shape
    if shape == input_shape:
        return dataset
    bare, wanted = (tuple(n for n in s if n != 1) for s in (shape, input_shape))
    same_size = int(np.prod(shape)) == int(np.prod(input_shape))
    if len(shape) == 3 and (*shape[1:], shape[0]) == input_shape:
        images = images.transpose(0, 2, 3, 1)
    elif not same_size or not (bare == wanted or len(bare) <= 1 or len(wanted) <= 1):
        raise DataError(
            f"{dataset.name}: images of shape {list(shape)} do not fit the network's input "
            f"{list(input_shape)}; use data made for this network"
        )
    elif channels_last is not None:
        images = _reordered(images, input_shape, channels_last=channels_last)
    images = np.ascontiguousarray(images).reshape(len(images), *input_shape)
    return replace(dataset, images=images)


def _reordered(
    images: NDArray[np.float32], wanted: tuple[int, ...], *, channels_last: bool
) -> NDArray[np.float32]:
    """Images whose entries, read row by row, are in the order of the network's input."""
    if images.ndim == 4 and len(wanted) == 1:
        return images.transpose(0, 2, 3, 1) if channels_last else images
    if images.ndim == 2 and len(wanted) == 3:
        grid = Grid.of(wanted)
        if grid.channels_last != channels_last:
            flat = Grid(grid.channels, grid.height, grid.width, channels_last)
            turned = np.empty_like(images)
            turned[:, grid.entries.reshape(-1)] = images[:, flat.entries.reshape(-1)]
            return turned
    return images


def _check_classes(dataset: DataSet, classes: int) -> None:
    beyond = dataset.labels >= classes
    if beyond.any():
        place = int(np.argmax(beyond))
        raise DataError(
            f"{dataset.name}: image {dataset.indices[place]} has label {dataset.labels[place]}, "
            f"but the network has outputs 0..{classes - 1}; is it a network for this data?"
        )
