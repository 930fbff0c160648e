"""What a change can win back of an image's total variation, input by input.

Let p and q be neighbours, `x_q >= x_p`, `d = x_q - x_p`. Moving them by `a` and `b` changes
`|x_q - x_p|` by no less than `-min(d, max(a, 0) + max(-b, 0))`, so by no less than
`-min(d, max(a, 0))` for p and `-min(d, max(-b, 0))` for q: only moving towards the neighbour wins,
and no more than the step itself. The isotropic term `|u|`, u the steps to the right and below,
falls by no more than `|u|`, and than the sum of `|u_k| / |u|` times what is moved towards them.
So

    value  >=  sum_p ( |delta_p| - kappa sum_k min(cap_k, share_k max(0, toward_k delta_p)) ).

In flat zones this is the l1 norm itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from closegap.core.numerics import FLOAT64_UNIT, gamma
from closegap.specs.objectives.base import Array
from closegap.specs.objectives.grid import Grid

__all__ = ["Relief", "relief_of"]

#: Neighbours of a pixel: each is p of two edges, and q of two.
_SLOTS = 4


@dataclass(frozen=True, eq=False)
class Relief:
    """Slots for up to four edges of each input; an empty slot has a share of 0.

    Attributes:
        kappa: weight of the total variation.
        toward: the direction in which the edge shrinks, 1 or -1.
        share: how much of a move it shrinks by, 0..1.
        cap: how much it can shrink at all.
    """

    kappa: float
    toward: Float[np.ndarray, "S D"]
    share: Float[np.ndarray, "S D"]
    cap: Float[np.ndarray, "S D"]

    def bends(self, sign: int) -> Float[np.ndarray, "S D"]:
        """How far an input goes in a direction until each edge has shrunk to nothing, sorted."""
        used = (self.share > 0) & (self.toward == sign)
        return np.sort(np.where(used, self.cap / np.where(used, self.share, 1.0), 0.0), axis=0)

    def stops(self) -> Float[np.ndarray, "Z D"]:
        """Changes at which an input's cost bends."""
        return np.concatenate([self.bends(1), -self.bends(-1), np.zeros((1, self.cap.shape[1]))])

    def costs(
        self, changes: Float[np.ndarray, "Z D"]
    ) -> tuple[Float[np.ndarray, "Z D"], Float[np.ndarray, "D"]]:
        """The summands of the bound at some changes, and the magnitudes that went into them."""
        won = np.zeros(changes.shape)
        for toward, share, cap in zip(self.toward, self.share, self.cap, strict=True):
            won += np.minimum(cap, share * np.maximum(toward * changes, 0.0))
        sizes = np.abs(changes) + self.kappa * won
        return np.abs(changes) - self.kappa * won, sizes.max(axis=0, initial=0.0)

    def floor(self, image: Array) -> float:
        """A lower bound of the bound over [0, 1]^D, rounded down; not positive."""
        stops = np.clip(self.stops(), -image, 1 - image)
        stops = np.concatenate([stops, -image[None], 1 - image[None]])
        costs, sizes = self.costs(stops)
        return float(costs.min(axis=0).sum() - 2 * gamma(image.size + 16) * sizes.sum())

    def farthest(self, sign: int, room: float) -> Float[np.ndarray, "D"]:
        """How far each input can go in a direction at a cost of at most `room`, rounded up.

        The cost is the greatest of its linear pieces where it is convex, and no less than each of
        those with a slope that is positive; infinity where no piece rises.
        """
        used = (self.share > 0) & (self.toward == sign)
        ends = np.where(used, self.cap / np.where(used, self.share, 1.0), 0.0)
        far = np.full(self.cap.shape[1], np.inf)
        for start in np.concatenate([np.zeros((1, len(far))), ends]):
            over = used & (ends <= start)
            slope = 1 - self.kappa * np.where(used & ~over, self.share, 0.0).sum(axis=0)
            level = room + self.kappa * np.where(over, self.cap, 0.0).sum(axis=0)
            slope = slope - 8 * FLOAT64_UNIT * (2 + self.kappa * _SLOTS)
            reach = level * (1 + 16 * FLOAT64_UNIT) / np.where(slope > 0, slope, 1.0)
            far = np.minimum(far, np.where(slope > 0, reach, np.inf))
        return far

    def longest(self, reach: Array, room: float) -> float:
        """The greatest l1 norm at a cost of at most `room`, `reach` an input; rounded up.

        For any multiplier m: no more than `m room + sum max (t - m cost(t))`. The multipliers that
        are tried are one over the slopes that costs can have when shares are 0 or 1, and between.
        """
        stops = np.concatenate([self.stops(), reach[None], -reach[None]])
        stops = np.clip(stops, -reach, reach)
        costs, sizes = self.costs(stops)
        best = float(np.abs(reach).sum()) * (1 + gamma(reach.size + 4))
        for slope in 1 - self.kappa * np.linspace(0.0, _SLOTS, 4 * _SLOTS + 1):
            if slope <= 0:
                break
            terms = (np.abs(stops) - costs / slope).max(axis=0)
            size = room / slope + (reach + sizes / slope).sum()
            total = room / slope + terms.sum() + 2 * gamma(reach.size + 16) * size
            best = min(best, float(total))
        return best


def relief_of(image: Array, grid: Grid, kappa: float, *, isotropic: bool) -> Relief:
    """The slots of an image's edges. `kappa = 0` leaves the l1 norm."""
    first, second = grid.edges.T
    step = image[second] - image[first]
    caps = np.abs(step)
    shares = (caps > 0).astype(np.float64)
    if isotropic:
        squares = np.bincount(grid.sites, step**2, minlength=grid.size)
        lengths = np.sqrt(squares)[grid.sites]
        shares = np.where(lengths > 0, caps / np.where(lengths > 0, lengths, 1.0), 0.0)
        caps = lengths
    toward, share, cap = (np.zeros((_SLOTS, grid.size)) for _ in range(3))
    half = len(first) - (grid.height - 1) * grid.width * grid.channels
    for slot, (part, ends, sign) in enumerate(
        (part, ends, sign)
        for part in (slice(0, half), slice(half, None))
        for ends, sign in ((first, 1.0), (second, -1.0))
    ):
        toward[slot, ends[part]] = sign * np.sign(step[part])
        share[slot, ends[part]] = shares[part]
        cap[slot, ends[part]] = caps[part]
    return Relief(kappa, toward, share, cap)
