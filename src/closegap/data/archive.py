"""Data sets in `.npz` files."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import DataError
from closegap.core.files import read_file
from closegap.data.dataset import DataSet, channels_first, labels_of, pixels_of

__all__ = ["load_archive"]

_INDEX_KEYS = ("indices", "index")

#: How files of several arrays and of one begin; numpy takes any other for a pickle.
_BEGINNINGS = (b"PK", b"\x93NUMPY")


def load_archive(path: Path, name: str = "", class_names: tuple[str, ...] = ()) -> DataSet:
    """Read an `.npz` with `images` and `labels`.

    Args:
        path: of the file. `images` are uint8 (divided by 255) or floating point in [0, 1], of shape
            `[M, H, W]`, `[M, H, W, C]`, `[M, C, H, W]` or `[M, D]`; `labels` are `[M]` integers.
            `index` or `indices` (`[M]`, default 0, 1, ...) and `class_names` are optional.
        name: of the data set; the file's own name without its suffix if empty.
        class_names: used where the file has none.

    Raises:
        DataError: the file is missing, damaged, lacks an array, or its content is not usable.
    """
    arrays = _read(path)
    for key in ("images", "labels"):
        if key not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise DataError(f"{path}: has no array '{key}' (it holds {held}); add it")
    name = name or path.stem
    images = arrays["images"]
    if images.ndim < 2:
        raise DataError(f"{path}: 'images' must be [M, ...], got shape {list(images.shape)}")
    index = next((arrays[key] for key in _INDEX_KEYS if key in arrays), np.arange(len(images)))
    if "class_names" in arrays:
        class_names = tuple(str(word) for word in arrays["class_names"].reshape(-1))
    return DataSet(
        pixels_of(channels_first(images), str(path)),
        labels_of(arrays["labels"], str(path)),
        labels_of(index, str(path)),
        name,
        class_names,
    )


def _read(path: Path) -> dict[str, NDArray[np.generic]]:
    content = read_file(path, DataError)
    if not content.startswith(_BEGINNINGS):
        raise DataError(f"{path}: not an .npz file; images and labels are needed")
    stream = io.BytesIO(content)
    try:
        # Pickled arrays are refused: loading one would run code from the file.
        archive = np.load(stream, allow_pickle=False)
        if isinstance(archive, np.lib.npyio.NpzFile):
            return {key: archive[key] for key in archive.files}
    except ValueError as error:
        text = "holds pickled objects" if "pickle" in str(error).lower() else "is damaged"
        raise DataError(f"{path}: {text}; store plain arrays with numpy.savez") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged .npz file ({error}); copy it again") from None
    raise DataError(f"{path}: holds one array; images and labels are needed (.npz)")
