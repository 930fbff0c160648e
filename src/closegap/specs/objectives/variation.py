"""Total variation as a maximum over flows: one number, or pair, for each of its terms.

For any flows `f_k` of length at most 1,

    kappa sum_k |u_k + (G d)_k| - |u_k|  >=  tilt . d + constant,
    tilt = kappa G' f,   constant = kappa sum_k f_k . u_k - |u_k|,

u the gradients at the image and d the change: linear, so what is left is separable over inputs. The
best flows make it an equality at a least point.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma
from closegap.specs.objectives.base import Array
from closegap.specs.objectives.grid import Grid
from closegap.specs.region import Prices

__all__ = ["Variation", "gradients", "tilted_prices", "variation_of"]

#: No change is taken to cost less for each unit: what is cheaper is paid in advance.
_CHEAPEST = 1 / 16


@dataclass(frozen=True, eq=False)
class Variation:
    """See the module; E flows are the terms' first parts and then, of pairs, their second.

    Attributes:
        kappa: the weight, not negative.
        matrix: csr `[E, D]`.
        clean: the gradients at the image `[E]`.
        paired: whether every flow is a pair.
    """

    kappa: float
    matrix: csr_array
    clean: Float[np.ndarray, "E"]
    paired: bool

    @property
    def flows(self) -> int:
        """How many numbers there are (E)."""
        return len(self.clean)

    @cached_property
    def _single(self) -> tuple[csr_array, csr_array]:
        return self.matrix.astype(np.float32), csr_array(self.matrix.T.astype(np.float32))

    @cached_property
    def _lengths(self) -> Array:
        """Of the gradients at the image, one a term."""
        return np.asarray(self._length(self.clean[None])[0])

    def _length(self, flows: NDArray[np.floating]) -> NDArray[np.floating]:
        if not self.paired:
            return np.asarray(np.abs(flows))
        half = flows.shape[1] // 2
        return np.asarray(np.hypot(flows[:, :half], flows[:, half:]))

    def projected(self, flows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Of length at most 1 in exact arithmetic, where they are finite `[B, E]`."""
        if not self.paired:
            return np.asarray(np.clip(flows, -1, 1), dtype=np.float32)
        length = np.maximum(self._length(flows), 1).astype(np.float32)
        shorter = (1 - 8 * np.finfo(np.float32).eps) / np.concatenate([length, length], axis=1)
        return np.asarray(flows * shorter, dtype=np.float32)

    def start(self) -> NDArray[np.float32]:
        """The gradients' own directions; 0 where there is none `[E]`."""
        length = np.tile(self._lengths, 2) if self.paired else self._lengths
        return np.asarray(self.projected((self.clean / np.maximum(length, TINY))[None])[0])

    def moved(self, changes: NDArray[np.float32]) -> NDArray[np.float32]:
        """About the gradients after changes, `[B, E]`."""
        steps = (self._single[0] @ np.ascontiguousarray(changes.T)).T
        return np.asarray(steps + self.clean.astype(np.float32))

    def guessed(
        self, flows: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """About the tilts `[B, D]` and constants `[B]`."""
        kappa = np.float32(self.kappa)
        tilts = kappa * (self._single[1] @ np.ascontiguousarray(flows.T)).T
        constants = flows @ self.clean.astype(np.float32) - np.float32(self._lengths.sum())
        return np.ascontiguousarray(tilts), np.asarray(kappa * constants, dtype=np.float32)

    def tilts(
        self, flows: Float[np.ndarray, "B E"], reach: Float[np.ndarray, "D"]
    ) -> tuple[Array, Array]:
        """Tilts and constants, these lowered so that the inequality holds exactly.

        Args:
            flows: any; made shorter where they are too long.
            reach: the greatest magnitude of each input's change.
        """
        held = self.projected(np.where(np.isfinite(flows), flows, 0.0)).astype(np.float64)
        tilts = self.kappa * (self.matrix.T @ np.ascontiguousarray(held.T)).T
        constants = self.kappa * (held @ self.clean - self._lengths.sum())
        size = 2 * self.kappa * (np.abs(self.clean).sum() + self._lengths.sum())
        lost = gamma(self.flows + 16) * size
        lost += 64 * FLOAT64_UNIT * self.kappa * (1 + gamma(reach.size)) * float(reach.sum())
        return np.ascontiguousarray(tilts), np.asarray(constants - 2 * lost)


def gradients(grid: Grid, *, isotropic: bool) -> tuple[csr_array, csr_array]:
    """One row for each term, an edge or an entry's two edges: their differences, in two parts.

    Without pairs the second part is empty.
    """
    count, number = grid.size, len(grid.edges)
    at = np.repeat(np.arange(number), 2)
    values = np.tile([-1.0, 1.0], number)
    steps = csr_array(coo_array((values, (at, grid.edges.reshape(-1))), shape=(number, count)))
    if not isotropic:
        return steps, csr_array((number, count))
    rightward = grid.channels * grid.height * (grid.width - 1)
    parts = []
    for part in (slice(0, rightward), slice(rightward, None)):
        sites = grid.sites[part]
        pick = coo_array(
            (np.ones(len(sites)), (sites, np.arange(len(sites)))), shape=(count, len(sites))
        )
        parts.append(csr_array(csr_array(pick) @ steps[part]))
    return parts[0], parts[1]


def variation_of(
    origin: Float[np.ndarray, "D"], grid: Grid, kappa: float, *, isotropic: bool
) -> Variation:
    """The variation of changes of a picture."""
    across, down = gradients(grid, isotropic=isotropic)
    matrix = csr_array(vstack([across, down], format="csr")) if isotropic else across
    return Variation(kappa, matrix, np.asarray(matrix @ origin), isotropic)


def tilted_prices(
    tilt: Float[np.ndarray, "D"], reach: Float[np.ndarray, "D"], room: float
) -> Prices:
    """Prices of changes d with `sum |d_i| + tilt . d <= room`, in exact arithmetic.

    Args:
        tilt: any.
        reach: the greatest magnitude of each change.
        room: what they may cost.
    """
    up, down = 1 + tilt, 1 - tilt
    # Prices are rounded down, and missing ones are added to the room, which is rounded up.
    allowance = 4 * FLOAT64_UNIT * (1 + np.abs(tilt))
    up, down = up - allowance, down - allowance
    missing = np.maximum(_CHEAPEST - np.minimum(up, down), 0.0)
    paid = float((missing * reach).sum() * (1 + gamma(tilt.size + 16)))
    total = room + paid + 4 * FLOAT64_UNIT * (abs(room) + paid)
    return Prices(np.maximum(up, _CHEAPEST), np.maximum(down, _CHEAPEST), total)
