"""No-goods: sets of signs under which a clause is proved, and what follows from them elsewhere.

A no-good of a root says: no input of the region breaks the root's clause where all its literals
`sign_j z_j >= 0` hold. Where a domain below that root has all of them, it is closed; where it has
all but one and not that one's opposite, the opposite may be assumed: the half that is left out is
closed. About other roots a no-good says nothing.

Source: Marques-Silva and Sakallah, GRASP, 1999, for unit propagation; Zhou et al., Scalable Neural
Network Verification with Branch-and-bound Inferred Cutting Planes (BICCOS), NeurIPS 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int8
from numpy.typing import NDArray

__all__ = ["NoGoods", "Verdicts"]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What no-goods say of B domains.

    Attributes:
        closed: all literals of one of them hold, `[B]`.
        unit: one whose sign is implied, -1 where none is, `[B]`.
        sign: the sign that is ruled out there, `[B]`.
    """

    closed: Bool[np.ndarray, "B"]
    unit: Int[np.ndarray, "B"]
    sign: Int[np.ndarray, "B"]


@dataclass(frozen=True, eq=False)
class NoGoods:
    """K no-goods over U units.

    Attributes:
        signs: +1 for `z >= 0`, -1 for `z <= 0`, 0 for no literal, `[K, U]`.
        root: the only root each is about, `[K]`.
    """

    signs: Int8[np.ndarray, "K U"]
    root: Int[np.ndarray, "K"]

    @classmethod
    def none(cls, units: int) -> NoGoods:
        """No no-good."""
        return cls(np.zeros((0, units), np.int8), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.root)

    @property
    def lengths(self) -> Int[np.ndarray, "K"]:
        """Literals of each."""
        return np.asarray(np.count_nonzero(self.signs, axis=1))

    def part(self, which: Bool[np.ndarray, "K"] | Int[np.ndarray, "M"]) -> NoGoods:
        """Some of them."""
        return NoGoods(self.signs[which], self.root[which])

    def joined(self, fresh: NoGoods, most: int) -> NoGoods:
        """Both, without those that another one implies; the shortest `most` of each root."""
        every = NoGoods(
            np.concatenate([self.signs, fresh.signs]), np.concatenate([self.root, fresh.root])
        )
        every = every.part(np.argsort(every.lengths, kind="stable"))
        shared = _agreement(every.signs, every.signs)  # of rows with columns
        implied = (shared == every.lengths[None, :]) & (every.root[:, None] == every.root)
        every = every.part(~np.tril(implied, -1).any(axis=1))  # shorter ones come first
        order = np.argsort(every.root, kind="stable")
        grouped = every.root[order]
        rank = np.arange(len(order)) - np.searchsorted(grouped, grouped)
        return every.part(np.sort(order[rank < most]))

    def judge(self, root: Int[np.ndarray, "B"], signs: Int8[np.ndarray, "B U"]) -> Verdicts:
        """Which domains are closed, and one sign that is ruled out in each other one.

        Args:
            root: of each domain.
            signs: of each domain's splits, 0 where a unit is not split.
        """
        count = len(root)
        unit, ruled_out = np.full(count, -1), np.zeros(count, np.int64)
        if not len(self):
            return Verdicts(np.zeros(count, bool), unit, ruled_out)
        missing = self.lengths - _agreement(signs, self.signs)  # one false literal counts for two
        own = root[:, None] == self.root
        closed = ((missing == 0) & own).any(axis=1)
        last = np.where(own, missing, -1) == 1
        found = np.flatnonzero(last.any(axis=1) & ~closed)
        which = last[found].argmax(axis=1)
        literals = np.where(signs[found] == 0, self.signs[which], 0)
        unit[found] = np.abs(literals).argmax(axis=1)
        ruled_out[found] = literals[np.arange(len(found)), unit[found]]
        return Verdicts(closed, unit, ruled_out)


def _agreement(some: Int8[np.ndarray, "B U"], others: Int8[np.ndarray, "K U"]) -> NDArray[np.int64]:
    """Signs alike less signs opposed, `[B, K]`; float32 holds these sums exactly."""
    used = np.flatnonzero(others.any(axis=0))
    left, right = some[:, used].astype(np.float32), others[:, used].astype(np.float32)
    return np.asarray((left @ right.T).astype(np.int64))
