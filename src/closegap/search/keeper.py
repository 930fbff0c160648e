"""What a search hands its state to, so that it can be continued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["TreeKeeper"]


@runtime_checkable
class TreeKeeper(Protocol):
    """Keeps the state of a long search."""

    @property
    def due(self) -> bool:
        """True when it is time to keep the state again."""

    def keep(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Replace what was kept before."""
