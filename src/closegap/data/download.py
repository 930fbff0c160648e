"""Fetching public data sets through torchvision, where it is installed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from closegap.core.errors import DataError, MissingDependencyError

__all__ = ["download_set"]

#: torchvision's class for each of our names.
_CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}


def download_set(name: str, folder: Path) -> None:
    """Let torchvision fetch the test part of a set into `folder`, in its original files.

    Raises:
        MissingDependencyError: torchvision is not installed.
        DataError: the download failed.
    """
    try:
        datasets = import_module("torchvision.datasets")
    except ImportError:
        raise MissingDependencyError(
            f"downloading {name} needs torchvision, which is not installed: "
            "pip install 'closegap[torchvision]'"
        ) from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        getattr(datasets, _CLASSES[name])(root=str(folder), train=False, download=True)
    except (OSError, RuntimeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name} could not be downloaded into {folder}: {text}") from None
