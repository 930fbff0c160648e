"""Flows of total variation for the units' planes, kept from sweep to sweep."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.reach import Reach

__all__ = ["Currents"]

Array = NDArray[np.float64]

#: Steps of each plane's flows.
_STEPS = 8
#: Where there would be more numbers than these, none are kept.
_KEPT = 2**26


class Currents:
    """Least values of linear functions over a reach; where variation counts, by flows.

    Args:
        reach: the region.
        functions: how many there are, over all.
    """

    def __init__(self, reach: Reach, functions: int) -> None:
        self._reach = reach
        self._held: NDArray[np.float16] | None = None
        self._start = np.zeros(0, dtype=np.float32)
        if reach.variation is not None:
            self._start = reach.variation.start()
            if functions * len(self._start) <= _KEPT:
                self._held = np.tile(self._start.astype(np.float16), (functions, 1))

    def guess(
        self, slopes: NDArray[np.float32], numbers: Int[np.ndarray, "B"]
    ) -> NDArray[np.floating]:
        """About the least values, `[B]`.

        Args:
            slopes: of functions.
            numbers: which they are.
        """
        if self._reach.variation is None:
            return self._reach.guess(slopes)
        point = self._reach.point(slopes, self._reach.tilted(self._flows(numbers)))
        return np.asarray((slopes * point).sum(axis=1))

    def least(self, slopes: Float[np.ndarray, "B D"], numbers: Int[np.ndarray, "B"]) -> Array:
        """Lower bounds of the least values, in exact arithmetic, `[B]`."""
        if self._reach.variation is None:
            return self._reach.least(slopes)
        flows = self._flows(numbers)
        flows = self._reach.raised(slopes.astype(np.float32), flows, _STEPS)
        if self._held is not None:
            self._held[numbers] = flows
        return self._reach.least_along(slopes, flows)

    def _flows(self, numbers: Int[np.ndarray, "B"]) -> NDArray[np.float32]:
        if self._held is None:
            return np.tile(self._start, (len(numbers), 1))
        return np.asarray(self._held[numbers], dtype=np.float32)
