"""Open boxes of a search, in arrays that grow; the picked ones leave no holes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Int8
from torch import Tensor

__all__ = ["BoxStore", "Boxes"]

#: Rows in the beginning; doubled as needed.
_FIRST = 256


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes in the free inputs, and what is known of each.

    Attributes:
        lower: `[B, F]`.
        upper: `[B, F]`.
        proved: proved lower bound of each clause, `[B, K]`.
        signs: of neurons, proved: 1 where never negative, -1 where never positive, 0 elsewhere.
        depth: cuts above each box, `[B]`.
    """

    lower: Float[Tensor, "B F"]
    upper: Float[Tensor, "B F"]
    proved: Float[Tensor, "B K"]
    signs: Int8[Tensor, "B signs"]
    depth: Int[Tensor, "B"]

    def __len__(self) -> int:
        return len(self.lower)

    def pick(self, rows: Tensor) -> Boxes:
        """Some of them, by index or mask."""
        return Boxes(*(part[rows] for part in self.parts))

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All tensors, in the order of the fields."""
        return self.lower, self.upper, self.proved, self.signs, self.depth

    @property
    def least(self) -> Float[Tensor, "K"]:
        """The least bound of each clause over the boxes where it is not proved."""
        open_ = torch.where(self.proved > 0, torch.inf, self.proved)
        ends = open_.new_full((1, open_.shape[1]), torch.inf)
        return torch.cat([open_, ends]).amin(dim=0)


class BoxStore:
    """Boxes that wait for their turn.

    The worst bounds first while there are few; where there are many, the ones that came last, so
    that what waits grows with the depth of the tree and not with its width.

    Args:
        like: boxes of the kind to keep; none of them is kept.
        wide: with more boxes than this the last ones come first.
    """

    def __init__(self, like: Boxes, wide: int) -> None:
        self._parts = [part.new_empty((_FIRST, *part.shape[1:])) for part in like.parts]
        self._worst = like.proved.new_empty(_FIRST)
        self._wide = wide
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, boxes: Boxes) -> None:
        """Keep boxes."""
        first, self._size = self._size, self._size + len(boxes)
        capacity = len(self._worst)
        if self._size > capacity:
            more = max(self._size, 2 * capacity) - capacity
            self._parts = [torch.cat([p, p.new_empty((more, *p.shape[1:]))]) for p in self._parts]
            self._worst = torch.cat([self._worst, self._worst.new_empty(more)])
        for kept, part in zip(self._parts, boxes.parts, strict=True):
            kept[first : self._size] = part
        self._worst[first : self._size] = boxes.proved.amin(dim=1)

    def take(self, count: int) -> Boxes:
        """Remove the boxes to go on with, at most `count`."""
        count = min(count, self._size)
        if self._size > self._wide:
            picked = torch.arange(self._size - count, self._size)
        else:
            picked = torch.topk(self._worst[: self._size], count, largest=False).indices
        taken = Boxes(*(part[picked] for part in self._parts))
        left = self._size - count
        hole = picked[picked < left]
        kept = torch.ones(count, dtype=torch.bool)
        kept[picked[picked >= left] - left] = False
        filler = left + kept.nonzero()[:, 0]
        for part in [*self._parts, self._worst]:
            part[hole] = part[filler]
        self._size = left
        return taken

    @property
    def boxes(self) -> Boxes:
        """All that are kept; not copied."""
        return Boxes(*(part[: self._size] for part in self._parts))
