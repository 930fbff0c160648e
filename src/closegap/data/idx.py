"""MNIST and Fashion-MNIST in their original IDX files, gzipped or not.

Source: Y. LeCun, C. Cortes and C. Burges, "The MNIST database", section on file formats: two zero
bytes, a type byte (8: unsigned bytes), the number of axes, their lengths as big-endian 32-bit
integers, then the values.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import DataError
from closegap.core.files import read_file
from closegap.data.archive import load_archive
from closegap.data.dataset import DataSet, labels_of, pixels_of

__all__ = ["load_idx_set", "read_idx"]

_UNSIGNED_BYTE = 8
#: Where torchvision puts the files, below the folder it was given.
_SUBFOLDERS = ("", "raw", "MNIST/raw", "FashionMNIST/raw")


def load_idx_set(
    folder: Path, name: str, class_names: tuple[str, ...], part: str = "t10k"
) -> DataSet | None:
    """The images of one part in `folder`: `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`.

    Either may end in `.gz` or have a dot for the second dash; `t10k.npz` is read too.

    Args:
        folder: where to look, subfolders of torchvision included.
        name: of the set.
        class_names: in label order.
        part: how the files' names begin: `t10k` for the test images, or `train`.

    Returns:
        images `[M, 1, 28, 28]`, or `None` when the folder holds none of the files.

    Raises:
        DataError: a file is damaged, or only one of the two is there.
    """
    for place in (folder / part for part in _SUBFOLDERS):
        found = {kind: _find(place, part, kind) for kind in ("images-idx3", "labels-idx1")}
        images, labels = found.values()
        if images is not None and labels is not None:
            return _join(images, labels, name, class_names)
        if images is not None or labels is not None:
            absent = next(kind for kind, path in found.items() if path is None)
            raise DataError(f"{place}: the file {part}-{absent}-ubyte is missing; put it there too")
    if (folder / f"{part}.npz").is_file():
        return load_archive(folder / f"{part}.npz", name, class_names)
    return None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file.

    Raises:
        DataError: the file is missing, damaged, or holds other than unsigned bytes.
    """
    data = read_file(path, DataError)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE:
        raise DataError(f"{path}: not an IDX file of unsigned bytes; download it again")
    begin = 4 + 4 * data[3]
    shape = tuple(int(n) for n in np.frombuffer(data[4:begin].ljust(4 * data[3], b"\0"), ">u4"))
    if len(data) != begin + int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"{path}: {len(data)} bytes do not hold an array of shape {list(shape)}; the file is "
            "truncated or damaged, download it again"
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def _find(folder: Path, part: str, kind: str) -> Path | None:
    stems = (f"{part}-{kind}-ubyte", f"{part}-{kind.replace('-', '.')}-ubyte")
    paths = (folder / (stem + suffix) for stem in stems for suffix in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _join(images: Path, labels: Path, name: str, class_names: tuple[str, ...]) -> DataSet:
    pixels, classes = read_idx(images), read_idx(labels)
    if pixels.ndim != 3 or classes.ndim != 1:
        raise DataError(
            f"{images}: images must be [M, H, W] and labels [M], got {list(pixels.shape)} and "
            f"{list(classes.shape)}; are the two files swapped?"
        )
    return DataSet(
        pixels_of(pixels[:, None], str(images)),
        labels_of(classes, str(labels)),
        np.arange(len(pixels)),
        name,
        class_names,
    )
