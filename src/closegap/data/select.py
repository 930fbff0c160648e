"""Choosing images: the first few, or those that a list names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import DataError, OptionError
from closegap.core.files import read_file
from closegap.data.dataset import DataSet

__all__ = ["read_indices", "select"]


def select(
    dataset: DataSet,
    *,
    limit: int | None = None,
    indices: Path | str | Sequence[int] | None = None,
) -> DataSet:
    """The part of a data set that is to be evaluated, in the order asked for.

    Args:
        dataset: what to choose from.
        limit: keep at most so many images, from the front, after `indices` was applied.
        indices: values of `dataset.indices`, or a text file that lists them.

    Raises:
        OptionError: the limit is below 1.
        DataError: the list is empty, damaged, names an index twice, or one that is not there.
    """
    if limit is not None and limit < 1:
        raise OptionError(f"the limit must be at least 1 image, got {limit}")
    rows = np.arange(len(dataset))
    if indices is not None:
        rows = _rows(dataset, indices)
    rows = rows[:limit]
    return replace(
        dataset,
        images=dataset.images[rows],
        labels=dataset.labels[rows],
        indices=dataset.indices[rows],
    )


def read_indices(path: Path | str) -> tuple[int, ...]:
    """The integers of a text file, one a line; `#` begins a comment, empty lines are skipped.

    Raises:
        DataError: the file is missing, not text, holds no integer, or a line is not an integer;
            names the line.
    """
    source = Path(path)
    try:
        text = read_file(source, DataError).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{source}: not a text file; write one integer a line") from None
    values: list[int] = []
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.partition("#")[0].strip()
        if not word:
            continue
        try:
            values.append(int(word))
        except ValueError:
            raise DataError(
                f"{source}:{number}: '{word}' is not an integer; write one index a line"
            ) from None
    if not values:
        raise DataError(f"{source}: holds no index; write one integer a line")
    return tuple(values)


def _rows(dataset: DataSet, indices: Path | str | Sequence[int]) -> NDArray[np.int64]:
    if isinstance(indices, Path | str):
        source, wanted = str(indices), read_indices(indices)
    else:
        source, wanted = "the list of indices", tuple(int(i) for i in indices)
    if not wanted:
        raise DataError(f"{source}: is empty; name at least one index")
    places = {int(index): row for row, index in enumerate(dataset.indices)}
    seen: set[int] = set()
    for index in wanted:
        if index in seen:
            raise DataError(f"{source}: names index {index} twice; remove one")
        if index not in places:
            raise DataError(
                f"{source}: {dataset.name} has no image with index {index} (it has "
                f"{len(places)}, {min(places)} to {max(places)})"
            )
        seen.add(index)
    return np.array([places[index] for index in wanted], dtype=np.int64)
