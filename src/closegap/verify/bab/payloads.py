"""What a search keeps of every open node: units to split next, warm starts, boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.search.slots import SlotStore

__all__ = ["Payloads", "Taken"]

#: Of the memory, this part (one in so many) is for warm starts.
_WARM_SHARE = 4

#: Of the memory, this part is for boxes.
_BOX_SHARE = 8


@dataclass(frozen=True, eq=False)
class Taken:
    """What was kept of B nodes.

    Attributes:
        ranked: units to split next, the best first; -1 where there are no more.
        points: where they are split.
        starts: of climbing; the root's where none was kept.
        boxes: that hold every counterexample; zeros where none was kept.
        boxed: which nodes had one.
    """

    ranked: Int[np.ndarray, "B width"]
    points: Float[np.ndarray, "B width"]
    starts: NDArray[np.float32]
    boxes: NDArray[np.generic]
    boxed: NDArray[np.bool_]


class Payloads:
    """Stores of one search. Losing a payload costs time, never soundness.

    A node without units to split is bounded anew when it is picked; one without a warm start
    begins with its root's.

    Args:
        roots: how many the tree has.
        choices: units kept for a node.
        width: numbers a warm start.
        boxes: numbers a box; 0 where none is cut.

    Attributes:
        root_starts: warm starts of the roots, `[roots, width]`.
    """

    def __init__(self, roots: int, choices: int, width: int, boxes: int) -> None:
        self._box_width = boxes
        self._ranks = SlotStore(choices, dtype=np.int32)
        self._points = SlotStore(choices, dtype=np.float64)
        self._boxes = SlotStore(boxes, 0, np.float64)
        self._starts = SlotStore(width, 0)
        self.root_starts = np.zeros((roots, width), np.float32)

    @property
    def fullness(self) -> float:
        """Share of the warm starts' memory in use."""
        return self._starts.fullness

    @property
    def nbytes(self) -> int:
        """Bytes of what grows with the tree."""
        return self._ranks.nbytes + self._points.nbytes

    def reserve(self, memory: int) -> None:
        """Give warm starts and boxes their parts of so many bytes; what they held is forgotten."""
        self._starts = SlotStore(self.root_starts.shape[1], memory // _WARM_SHARE)
        boxes = memory // _BOX_SHARE if self._box_width else 0
        self._boxes = SlotStore(self._box_width, boxes, np.float64)

    def widen(self, width: int, memory: int = 0) -> SlotStore:
        """Warm starts have another width from now on: all of them are gone.

        Args:
            width: numbers a warm start.
            memory: as `reserve`.

        Returns:
            those of the nodes before.
        """
        before = self._starts
        self.root_starts = np.zeros((len(self.root_starts), width), np.float32)
        self._starts = SlotStore(width, memory // _WARM_SHARE)
        return before

    def put(
        self,
        nodes: Int[np.ndarray, "B"],
        ranked: Int[np.ndarray, "B width"],
        points: Float[np.ndarray, "B width"],
        starts: NDArray[np.generic],
        boxes: NDArray[np.generic] | None,
    ) -> None:
        """Keep what is known of nodes that have nothing; see `Taken`."""
        self._ranks.put(nodes, ranked + 1)
        self._points.put(nodes, points)
        self._starts.put(nodes, starts)
        if boxes is not None:
            self._boxes.put(nodes, boxes)

    def put_starts(self, nodes: Int[np.ndarray, "B"], starts: NDArray[np.generic]) -> None:
        """Keep warm starts of nodes that have none."""
        self._starts.put(nodes, starts)

    def take(self, nodes: Int[np.ndarray, "B"], roots: Int[np.ndarray, "B"]) -> Taken:
        """What is kept of nodes, no more to be kept.

        Args:
            nodes: of the tree.
            roots: of each, its number.
        """
        starts, found = self._starts.take(nodes)
        boxes, boxed = self._boxes.take(nodes)
        ranked = self._ranks.take(nodes)[0].astype(np.int64) - 1
        points = self._points.take(nodes)[0].astype(np.float64)
        return Taken(ranked, points, self._or_root(starts, found, roots), boxes, boxed)

    def starts(
        self, nodes: Int[np.ndarray, "B"], roots: Int[np.ndarray, "B"]
    ) -> NDArray[np.float32]:
        """Warm starts of nodes, which stay."""
        return self._or_root(*self._starts.look(nodes), roots)

    def drop(self, nodes: Int[np.ndarray, "B"]) -> None:
        """Forget nodes."""
        for store in (self._ranks, self._points, self._starts, self._boxes):
            store.drop(nodes)

    def drop_choices(self, nodes: Int[np.ndarray, "B"]) -> None:
        """Forget units to split: these nodes are to be bounded anew."""
        for store in (self._ranks, self._points):
            store.drop(nodes)

    def keep_only(self, nodes: Int[np.ndarray, "B"]) -> None:
        """Forget all other nodes."""
        for store in (self._ranks, self._points, self._starts, self._boxes):
            store.keep_only(nodes)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything, to be kept."""
        ranked, ranks = self._ranks.held()
        started, starts = self._starts.held()
        boxed, boxes = self._boxes.held()
        return {
            "ranked": ranked,
            "ranks": ranks,
            "points": self._points.held()[1],
            "started": started,
            "starts": starts,
            "boxed": boxed,
            "boxes": boxes,
            "root_starts": self.root_starts,
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Take up what `arrays` gave; `reserve` comes first."""
        ranked = arrays["ranked"].astype(np.int64)
        self._ranks.put(ranked, arrays["ranks"])
        self._points.put(ranked, arrays["points"])
        self._starts.put(arrays["started"].astype(np.int64), arrays["starts"])
        self._boxes.put(arrays["boxed"].astype(np.int64), arrays["boxes"])
        self.root_starts = arrays["root_starts"].astype(np.float32)

    def _or_root(
        self, starts: NDArray[np.generic], found: NDArray[np.bool_], roots: Int[np.ndarray, "B"]
    ) -> NDArray[np.float32]:
        known = starts.astype(np.float32)
        known[~found] = self.root_starts[roots[~found]]
        return known
