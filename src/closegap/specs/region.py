"""Where inputs may lie: a box, or an lp ball intersected with a box."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from closegap.core.errors import OptionError, SpecError
from closegap.core.numerics import float32_inward, float32_outward

__all__ = ["Ball", "Box", "Prices", "Region", "bounding_box", "contains", "lp_ball", "named_norm"]

_NORMS = {"0": 0.0, "1": 1.0, "2": 2.0, "inf": math.inf}


@dataclass(frozen=True, eq=False)
class Box:
    """`lower <= x <= upper`, float64, in the network's input shape."""

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.lower.shape != self.upper.shape:
            raise SpecError(f"box bounds differ in shape: {self.lower.shape}, {self.upper.shape}")
        if not (np.isfinite(self.lower).all() and np.isfinite(self.upper).all()):
            raise SpecError("box bounds must be finite")
        if (self.lower > self.upper).any():
            place = int(np.argmax((self.lower > self.upper).reshape(-1)))
            raise SpecError(
                f"empty box: lower {self.lower.reshape(-1)[place]} > upper "
                f"{self.upper.reshape(-1)[place]} at input {place}"
            )


@dataclass(frozen=True, eq=False)
class Ball:
    """`||x - center||_norm <= radius`, inside `box`. `norm` is 1 or 2 (linf balls are boxes)."""

    box: Box
    center: NDArray[np.float64]
    radius: float
    norm: int


@dataclass(frozen=True, eq=False)
class Prices:
    """`sum up_i max(d_i, 0) + down_i max(-d_i, 0) <= room`, d the difference from a center.

    Attributes:
        up, down: flat, positive.
        room: negative where no difference is so cheap.
    """

    up: NDArray[np.float64]
    down: NDArray[np.float64]
    room: float


Region: TypeAlias = Box | Ball


def lp_ball(
    center: ArrayLike,
    radius: float,
    *,
    norm: float = math.inf,
    low: float | None = 0.0,
    high: float | None = 1.0,
) -> Region:
    """The lp ball around `center`, intersected with `[low, high]`.

    An entry whose interval holds no float32 number is widened to the nearest one.

    Args:
        center: an input, any shape; a float32 image keeps its exact values.
        radius: in input units, finite and not negative; 0 gives the point itself.
        norm: 1, 2 or infinity.
        low: least value of any entry; `None` for no limit.
        high: greatest value of any entry; `None` for no limit.

    Raises:
        OptionError: the radius is negative or not finite, or the norm is not 1, 2 or infinity.
        SpecError: the center is not finite or lies outside `[low, high]`.
    """
    if not (math.isfinite(radius) and radius >= 0):
        raise OptionError(f"radius must be finite and not negative, got {radius}")
    if norm not in (1, 2, math.inf):
        raise OptionError(f"norm must be 1, 2 or inf, got {norm}")
    middle = np.asarray(center, dtype=np.float64)
    if not np.isfinite(middle).all():
        raise SpecError("the center of the region is not finite")
    least = np.full_like(middle, -np.inf if low is None else low)
    most = np.full_like(middle, np.inf if high is None else high)
    if (middle < least).any() or (middle > most).any():
        raise SpecError(f"the center of the region leaves [{low}, {high}]")
    # Outward, so that a proof covers the nearest float32 number where `contains` accepts it.
    edges = np.maximum(middle - radius, least), np.minimum(middle + radius, most)
    box = Box(*float32_outward(*edges))
    if norm == math.inf or radius == 0:
        return box
    return Ball(box, middle, float(radius), int(norm))


def bounding_box(region: Region) -> Box:
    """The smallest box that holds the region."""
    return region.box if isinstance(region, Ball) else region


def contains(region: Region, point: NDArray[np.float32]) -> bool:
    """True iff the float32 `point` lies in the region, with no tolerance.

    A fixed input that no float32 number represents (0.1, say) is met by the nearest one.
    Distances are taken in float64, and a rounding allowance counts against the point. A region that
    is to be proved must hold that nearest number too: `lp_ball` and VNN-LIB queries see to it.

    Raises:
        SpecError: the point has another shape than the region.
    """
    box = bounding_box(region)
    if point.shape != box.lower.shape:
        raise SpecError(f"a point of shape {point.shape} in a region of shape {box.lower.shape}")
    low, high = float32_inward(box.lower, box.upper)
    inside = bool(((point >= low) & (point <= high)).all())
    if not inside or isinstance(region, Box):
        return inside
    distance = np.abs(point.astype(np.float64) - region.center).reshape(-1)
    length = math.fsum(distance) if region.norm == 1 else math.sqrt(math.fsum(distance**2))
    return bool(length * (1 + 4 * np.finfo(np.float64).eps) <= region.radius)


def named_norm(norm: str | float) -> float | None:
    """0, 1, 2 or infinity, from `"1"`, `"l2"`, `"Linf"` and the like or a number; else `None`."""
    return _NORMS.get(str(norm).lower().removeprefix("l").removesuffix(".0"))
