"""Payloads of open nodes (warm starts, say), in arrays with free slots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import numpy as np
from jaxtyping import Int
from numpy.typing import DTypeLike, NDArray

__all__ = ["SlotStore"]

Scalar = TypeVar("Scalar", bound=np.generic)

#: Slots in the beginning; doubled as needed.
_FIRST = 64
#: Payloads copied at a time.
_COPIED = 1024


class SlotStore:
    """Rows of numbers, one for each node that has one.

    Under a memory limit a store is for warm starts only: losing one costs time, never soundness.
    When it is full, new payloads are not kept. Its rows are reserved at once, and the slots freed
    last are filled first: the system provides memory for those that were ever used, and nothing is
    copied when the store grows.

    Args:
        width: numbers a payload.
        memory: bytes the rows may take; `None` for no limit.
        dtype: of the numbers; what does not fit its range is moved to the nearest end.
    """

    def __init__(
        self, width: int, memory: int | None = None, dtype: DTypeLike = np.float16
    ) -> None:
        kind = np.dtype(dtype)
        limit = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
        self._range = limit.min, limit.max
        self._bounded = memory is not None
        rows = _FIRST if memory is None else memory // max(1, kind.itemsize * width)
        self._rows: NDArray[np.generic] = np.zeros((max(_FIRST, rows), width), kind)
        self._slot = np.full(1024, -1, np.int64)
        self._free = np.zeros(_FIRST, np.int64)
        self._freed = 0
        self._used = 0

    def __len__(self) -> int:
        """How many payloads are held."""
        return self._used - self._freed

    @property
    def nbytes(self) -> int:
        """Bytes of the rows and of what finds them."""
        return self._rows.nbytes + self._slot.nbytes + self._free.nbytes

    @property
    def fullness(self) -> float:
        """Share of the memory limit that is taken; 0 without a limit."""
        return len(self) / len(self._rows) if self._bounded else 0.0

    def put(self, nodes: Int[np.ndarray, "B"], payload: NDArray[np.generic]) -> None:
        """Keep the payload `[B, width]` of nodes that have none."""
        self._slot = _reached(self._slot, int(nodes.max(initial=-1)) + 1, -1)
        again = min(self._freed, len(nodes))
        self._freed -= again
        fresh = len(nodes) - again
        if self._bounded:
            fresh = min(fresh, len(self._rows) - self._used)
        slots = np.concatenate(
            [self._free[self._freed : self._freed + again], self._used + np.arange(fresh)]
        )
        self._used += fresh
        self._rows = _reached(self._rows, self._used, 0)
        kept = len(slots)
        self._slot[nodes[:kept]] = slots
        self._rows[slots] = np.clip(payload[:kept], *self._range)

    def take(self, nodes: Int[np.ndarray, "B"]) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Payloads `[B, width]` and which nodes had one (zeros where not); frees their slots."""
        payload, slots = self._look(nodes)
        found = slots >= 0
        gone = slots[found]
        self._free = _reached(self._free, self._freed + len(gone), 0)
        self._free[self._freed : self._freed + len(gone)] = gone
        self._freed += len(gone)
        self._slot[nodes] = -1
        return payload, found

    def drop(self, nodes: Int[np.ndarray, "B"]) -> None:
        """Forget payloads."""
        self.take(nodes)

    def keep_only(self, nodes: Int[np.ndarray, "B"]) -> None:
        """Forget the payloads of all other nodes."""
        held = np.flatnonzero(self._slot >= 0)
        self.drop(held[~np.isin(held, nodes)])

    def held(self) -> tuple[Int[np.ndarray, "B"], NDArray[np.generic]]:
        """The nodes that have a payload, and the payloads `[B, width]`; nothing is freed."""
        nodes = np.flatnonzero(self._slot >= 0)
        return np.asarray(nodes), self._look(nodes)[0]

    def parts(
        self, nodes: Int[np.ndarray, "B"]
    ) -> Iterator[tuple[Int[np.ndarray, "M"], NDArray[np.generic]]]:
        """Those of some nodes that have a payload, and the payloads, few enough to be copied."""
        known = np.intersect1d(nodes, np.flatnonzero(self._slot >= 0))
        for first in range(0, len(known), _COPIED):
            part = known[first : first + _COPIED]
            yield part, self._look(part)[0]

    def look(self, nodes: Int[np.ndarray, "B"]) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """As `take`, but nothing is freed."""
        payload, slots = self._look(nodes)
        return payload, slots >= 0

    def _look(
        self, nodes: Int[np.ndarray, "B"]
    ) -> tuple[NDArray[np.generic], Int[np.ndarray, "B"]]:
        self._slot = _reached(self._slot, int(nodes.max(initial=-1)) + 1, -1)
        slots = self._slot[nodes]
        payload = self._rows[np.maximum(slots, 0)]
        payload[slots < 0] = 0
        return payload, slots


def _reached(array: NDArray[Scalar], size: int, fill: int) -> NDArray[Scalar]:
    """The array, at least `size` long: doubled where it is shorter."""
    if size <= len(array):
        return array
    more = max(size, 2 * len(array)) - len(array)
    return np.concatenate([array, np.full((more, *array.shape[1:]), fill, array.dtype)])
