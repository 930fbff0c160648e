"""CIFAR-10 from its binary batch, its python batch, or an archive of some of its images.

Source: A. Krizhevsky, "The CIFAR-10 dataset": a binary record is one label byte and 3072 pixel
bytes, the red plane first, each plane row by row.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import DataError
from closegap.core.files import read_file
from closegap.data.archive import load_archive
from closegap.data.dataset import DataSet, labels_of, pixels_of

__all__ = ["load_cifar10"]

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_BINARY = ("test_batch.bin", "cifar-10-batches-bin/test_batch.bin")
_PYTHON = ("test_batch", "cifar-10-batches-py/test_batch")
_ARCHIVE = "images.npz"


def load_cifar10(folder: Path, name: str, class_names: tuple[str, ...]) -> DataSet | None:
    """The test images in `folder`, or `None` when it holds none of the files.

    Tried in order: `test_batch.bin`, the python version's `test_batch` (both also below the folder
    that unpacking the original archives makes), and `images.npz` with `images` (uint8, HWC),
    `labels` and `index`.

    Returns:
        images `[M, 3, 32, 32]`.

    Raises:
        DataError: a file is damaged.
    """
    readers = dict.fromkeys(_BINARY, _read_binary) | dict.fromkeys(_PYTHON, _read_python)
    for part, read in readers.items():
        path = folder / part
        if path.is_file():
            pixels, labels = read(path)
            return DataSet(
                pixels_of(pixels.reshape(-1, *_SHAPE), str(path)),
                labels_of(labels, str(path)),
                np.arange(len(labels)),
                name,
                class_names,
            )
    if (folder / _ARCHIVE).is_file():
        return load_archive(folder / _ARCHIVE, name, class_names)
    return None


def _read_binary(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    data = read_file(path, DataError)
    if len(data) % (1 + _PIXELS):
        raise DataError(
            f"{path}: {len(data)} bytes are not a whole number of records of {1 + _PIXELS}; the "
            "file is truncated or not CIFAR-10's binary version, download it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], records[:, 0]


class _PlainArrays(pickle.Unpickler):
    """Unpickles containers, bytes and numpy arrays only: nothing a file names is ever called."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module.endswith("core.multiarray"):
            return np.ndarray((0,)).__reduce__()[0]
        if module == "numpy" and name in {"ndarray", "dtype"}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 stores bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding}")
    return text.encode("latin1")


def _read_python(path: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    data = read_file(path, DataError)
    try:
        batch = _PlainArrays(io.BytesIO(data), encoding="bytes").load()
        pixels, labels = np.asarray(batch[b"data"]), np.asarray(batch[b"labels"])
    except Exception as error:  # a damaged pickle can raise almost anything
        raise DataError(f"{path}: not a batch of CIFAR-10's python version ({error})") from None
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS):
        raise DataError(
            f"{path}: 'data' must be uint8 [M, {_PIXELS}], got {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels, labels
