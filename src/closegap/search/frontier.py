"""Which open nodes come next: the least bounds; the newest while memory is short."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from closegap.search.tree import Tree

__all__ = ["Frontier"]

#: Best first until the memory of payloads is this full, then depth first ...
_CROWDED = 0.95
#: ... until no more than this is left in use.
_RELIEVED = 0.5


class Frontier:
    """Best-first search that plunges depth-first while memory is short.

    Best first closes a tree with the fewest nodes, but holds many open ones. Depth first holds a
    few for each level, so a plunge works off what is open before more is opened.

    Attributes:
        plunging: memory is short.
    """

    def __init__(self, *, plunging: bool = False) -> None:
        self.plunging = plunging

    def pick(
        self,
        tree: Tree,
        count: int,
        fullness: float,
        waiting: Int[np.ndarray, "W"] | None = None,
    ) -> Int[np.ndarray, "B"]:
        """Open nodes to split next, at most `count`.

        Args:
            tree: where they are.
            count: how many.
            fullness: share of the payloads' memory in use.
            waiting: nodes that others decide meanwhile; never picked.
        """
        self.plunging = fullness > (_RELIEVED if self.plunging else _CROWDED)
        open_ = tree.open_nodes()
        if waiting is not None and len(waiting):
            open_ = np.setdiff1d(open_, waiting, assume_unique=True)
        if len(open_) <= count:
            return open_
        if self.plunging:
            return open_[-count:]
        lower = tree.lower(open_)
        return np.asarray(open_[np.argpartition(lower, count)[:count]])
