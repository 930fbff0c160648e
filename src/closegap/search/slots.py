"""Payloads of open nodes (warm starts), in arrays with free slots, under a memory limit."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

__all__ = ["SlotStore"]


class SlotStore:
    """Rows of half-precision numbers, one for each node that has one.

    A payload is a warm start: losing one costs time, never soundness. When the store is full, new
    payloads are not kept.

    Args:
        width: numbers a payload.
        memory: bytes the store may take.
    """

    def __init__(self, width: int, memory: int) -> None:
        self._width = width
        self._most = max(64, memory // max(1, 2 * width))
        self._rows: NDArray[np.float16] = np.zeros((64, width), np.float16)
        self._slot = np.full(1024, -1, np.int64)
        self._free: NDArray[np.int64] = np.arange(64)

    def put(self, nodes: Int[np.ndarray, "B"], payload: NDArray[np.floating]) -> None:
        """Keep the payload `[B, width]` of nodes that have none."""
        self._reach(int(nodes.max(initial=-1)) + 1)
        while len(self._free) < len(nodes) and len(self._rows) < self._most:
            self._double()
        kept = nodes[: len(self._free)]
        slots, self._free = self._free[: len(kept)], self._free[len(kept) :]
        self._slot[kept] = slots
        limit = np.finfo(np.float16).max
        self._rows[slots] = np.clip(payload[: len(kept)], -limit, limit)

    def take(self, nodes: Int[np.ndarray, "B"]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Payloads `[B, width]` and which nodes had one; their slots are free afterwards."""
        self._reach(int(nodes.max(initial=-1)) + 1)
        slots = self._slot[nodes]
        found = slots >= 0
        payload = self._rows[np.maximum(slots, 0)].astype(np.float32)
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
        self._rows = np.concatenate([self._rows, np.zeros((count, self._width), np.float16)])
        self._free = np.concatenate([self._free, np.arange(first, first + count)])
