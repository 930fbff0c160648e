"""What a search hands its state to, so that it can be continued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["TreeKeeper", "unlike_arrays"]


@runtime_checkable
class TreeKeeper(Protocol):
    """Keeps the state of a long search."""

    @property
    def due(self) -> bool:
        """True when it is time to keep the state again."""

    def keep(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Replace what was kept before."""


def unlike_arrays(
    arrays: Mapping[str, NDArray[np.generic]], wanted: Mapping[str, NDArray[np.generic]]
) -> list[str]:
    """Names of those wanted that are missing, or of another kind, however many nodes they have."""
    return [n for n, a in wanted.items() if n not in arrays or _kind(a) != _kind(arrays[n])]


def _kind(array: NDArray[np.generic]) -> tuple[object, ...]:
    return array.dtype, array.shape[1:]
