"""From a name or a path to a data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from closegap.core.errors import DataError
from closegap.data.archive import load_archive
from closegap.data.cifar import load_cifar10
from closegap.data.dataset import DataSet
from closegap.data.digits import digits_split
from closegap.data.download import download_set
from closegap.data.idx import load_idx_set

__all__ = ["DATA_NAMES", "load_data", "load_training"]


@dataclass(frozen=True)
class _OnDisk:
    """A set that lies in a folder of its name.

    Attributes:
        load: reads it from the folder; `None` when the folder holds none of its files.
        files: what the user is told to put there.
        class_names: in label order.
    """

    load: Callable[[Path, str, tuple[str, ...]], DataSet | None]
    files: str
    class_names: tuple[str, ...]


_IDX_FILES = "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz"
_ON_DISK: dict[str, _OnDisk] = {
    "mnist": _OnDisk(load_idx_set, _IDX_FILES, tuple("0123456789")),
    "fashion-mnist": _OnDisk(
        load_idx_set,
        _IDX_FILES,
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
    ),
    "cifar10": _OnDisk(
        load_cifar10,
        "cifar-10-batches-bin/test_batch.bin",
        (
            *("airplane", "automobile", "bird", "cat", "deer"),
            *("dog", "frog", "horse", "ship", "truck"),
        ),
    ),
}

#: Where data sets lie unless `CLOSEGAP_DATA` says otherwise: beside the folder one works in.
_DEFAULT_ROOT = Path("..") / "shared" / "data"

#: The names `load_data` knows.
DATA_NAMES: tuple[str, ...] = ("digits", *_ON_DISK)


def load_data(name_or_path: str | Path, *, download: bool = False) -> DataSet:
    """Load a data set by name, or an `.npz` by path.

    Sets other than `digits` are looked for in `$CLOSEGAP_DATA/NAME` (`../shared/data/NAME` where
    the variable is not set), `./data/NAME` and `~/.cache/closegap/NAME`, in this order; always
    their test part.

    Args:
        name_or_path: one of `DATA_NAMES`, or an `.npz` file with `images` and `labels`.
        download: fetch a set that is not on disk, through torchvision, into the last folder.

    Raises:
        DataError: the name is unknown, the files are not there (the text says where to put them),
            or they are damaged.
        MissingDependencyError: `download` without torchvision.
    """
    name = str(name_or_path)
    if name == "digits":
        return digits_split().held_out
    if name in _ON_DISK:
        return _load_named(name, download)
    path = Path(name_or_path)
    if not path.exists():
        raise DataError(
            f"no data set '{name}': the names are {', '.join(DATA_NAMES)}; anything else must be "
            "the path of an .npz file, and there is none"
        )
    return load_archive(path)


def load_training(name: str) -> DataSet | None:
    """The training images of `mnist` or `fashion-mnist`, from the folders of `load_data`.

    Returns:
        `None` where none of these folders holds `train-images-idx3-ubyte` (or `train.npz`).

    Raises:
        DataError: the name is another, or a file is damaged.
    """
    entry = _ON_DISK.get(name)
    if entry is None or entry.load is not load_idx_set:
        raise DataError(f"no training images of '{name}': the names are mnist and fashion-mnist")
    found = (load_idx_set(folder, name, entry.class_names, "train") for folder in _folders(name))
    return next((data for data in found if data is not None), None)


def _load_named(name: str, download: bool) -> DataSet:
    entry, folders = _ON_DISK[name], _folders(name)
    for folder in folders:
        found = entry.load(folder, name, entry.class_names)
        if found is not None:
            return found
    if download:
        download_set(name, folders[-1])
        found = entry.load(folders[-1], name, entry.class_names)
        if found is not None:
            return found
    places = ", ".join(str(folder) for folder in folders)
    raise DataError(
        f"{name} is not on disk: put {entry.files} into one of {places}; or install torchvision "
        "and ask for a download"
    )


def _folders(name: str) -> tuple[Path, ...]:
    root = Path(os.environ.get("CLOSEGAP_DATA", _DEFAULT_ROOT))
    roots = (root, Path("data"), Path.home() / ".cache" / "closegap")
    return tuple(folder / name for folder in roots)
