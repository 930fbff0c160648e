"""Payloads of open nodes (warm starts, say), in arrays with free slots."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy.typing import DTypeLike, NDArray

__all__ = ["SlotStore"]

#: Slots in the beginning; doubled as needed.
_FIRST = 64


class SlotStore:
    """Rows of numbers, one for each node that has one.

    Under a memory limit a store is for warm starts only: losing one costs time, never soundness.
    When it is full, new payloads are not kept.

    Args:
        width: numbers a payload.
        memory: bytes the store may take; `None` for no limit.
        dtype: of the numbers; what does not fit its range is moved to the nearest end.
    """

    def __init__(
        self, width: int, memory: int | None = None, dtype: DTypeLike = np.float16
    ) -> None:
        kind = np.dtype(dtype)
        limit = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
        self._range = limit.min, limit.max
        self._width = width
        self._most = np.iinfo(np.int64).max
        if memory is not None:
            self._most = max(_FIRST, memory // max(1, kind.itemsize * width))
        self._rows: NDArray[np.generic] = np.zeros((_FIRST, width), kind)
        self._slot = np.full(1024, -1, np.int64)
        self._free: NDArray[np.int64] = np.arange(_FIRST)

    def put(self, nodes: Int[np.ndarray, "B"], payload: NDArray[np.generic]) -> None:
        """Keep the payload `[B, width]` of nodes that have none."""
        self._reach(int(nodes.max(initial=-1)) + 1)
        while len(self._free) < len(nodes) and len(self._rows) < self._most:
            self._double()
        kept = nodes[: len(self._free)]
        slots, self._free = self._free[: len(kept)], self._free[len(kept) :]
        self._slot[kept] = slots
        self._rows[slots] = np.clip(payload[: len(kept)], *self._range)

    def take(self, nodes: Int[np.ndarray, "B"]) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Payloads `[B, width]` and which nodes had one (zeros where not); frees their slots."""
        self._reach(int(nodes.max(initial=-1)) + 1)
        slots = self._slot[nodes]
        found = slots >= 0
        payload = self._rows[np.maximum(slots, 0)]
        payload[~found] = 0
        self._free = np.concatenate([self._free, slots[found]])
        self._slot[nodes] = -1
        return payload, found

    def drop(self, nodes: Int[np.ndarray, "B"]) -> None:
        """Forget payloads."""
        self.take(nodes)

    def _reach(self, size: int) -> None:
        if size > len(self._slot):
            more = np.full(max(size, 2 * len(self._slot)) - len(self._slot), -1, np.int64)
            self._slot = np.concatenate([self._slot, more])

    def _double(self) -> None:
        count = min(len(self._rows), self._most - len(self._rows))
        first = len(self._rows)
        self._rows = np.concatenate([self._rows, np.zeros((count, self._width), self._rows.dtype)])
        self._free = np.concatenate([self._free, np.arange(first, first + count)])
