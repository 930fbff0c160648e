"""What a distance query minimises."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.core.numerics import FLOAT64_UNIT
from closegap.specs.region import Region

__all__ = ["Array", "Objective", "farthest_corner", "rounded_up"]

Array: TypeAlias = NDArray[np.float64]


@runtime_checkable
class Objective(Protocol):
    """A distance from a clean image, all arrays flat over the D inputs, in row-major order.

    Attributes:
        name: as in the registry.
        norm: 1, 2 or infinity where the distance is that norm of the difference, else `None`.
        integral: whether every value is a whole number.
        size: of how many inputs (D) it is; `None` for any number.
    """

    @property
    def name(self) -> str:
        """As in the registry."""

    @property
    def norm(self) -> float | None:
        """1, 2 or infinity where the distance is that norm of the difference, else `None`."""

    @property
    def integral(self) -> bool:
        """Whether every value is a whole number."""

    @property
    def size(self) -> int | None:
        """Of how many inputs (D) it is; `None` for any number."""

    def value(
        self, image: Float[np.ndarray, "D"], points: Float[np.ndarray, "... D"]
    ) -> Float[np.ndarray, "..."]:
        """The distance of each point, up to rounding; 0 at the image."""

    def attained(self, image: Float[np.ndarray, "D"], point: Float[np.ndarray, "D"]) -> float:
        """The distance of one point, rounded up: no less than the exact one."""

    def greatest(self, image: Float[np.ndarray, "D"]) -> float:
        """No point of [0, 1]^D has a greater value, rounding included; it need not be attained."""

    def region(self, image: Float[np.ndarray, "D"], limit: float, shape: tuple[int, ...]) -> Region:
        """A region of `[0, 1]^D`, in this shape, that holds every point of value <= `limit`.

        Where the sublevel set is no box or ball, it also holds points that are farther.

        Raises:
            OptionError: the limit is negative (of a distance that never is) or not finite.
        """

    def least(
        self,
        image: Float[np.ndarray, "D"],
        gains: Float[np.ndarray, "Q D"],
        offsets: Float[np.ndarray, "Q"],
        lower: Float[np.ndarray, "D"],
        upper: Float[np.ndarray, "D"],
    ) -> Float[np.ndarray, "Q"]:
        """A lower bound, in exact arithmetic, of the value over half of a box.

        Row q bounds `value(x)` over `lower <= x <= upper` with
        `gains[q] @ (x - image) + offsets[q] >= 0`. Infinity only where there is provably no such
        point. With `gains` zero and `offsets` not negative it bounds the value over the box.
        """


def rounded_up(value: float) -> float:
    """A sum of correctly rounded terms, rounded up; 0 stays 0."""
    return value * (1 + 16 * FLOAT64_UNIT) + 4 * FLOAT64_UNIT if value else 0.0


def farthest_corner(image: Float[np.ndarray, "D"]) -> Array:
    """Of [0, 1]^D, as far as it can be in every input."""
    return np.where(image < 1 - image, 1.0, 0.0)
