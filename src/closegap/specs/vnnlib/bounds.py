"""Bounds on inputs, gathered one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from closegap.specs.vnnlib.formula import Bound
from closegap.specs.vnnlib.sexpr import SourceText

__all__ = ["BoundSet"]


@dataclass(eq=False, slots=True)
class BoundSet:
    """The tightest bounds seen so far, by input; an input without an entry is free on that side."""

    lower: dict[int, float] = field(default_factory=dict)
    upper: dict[int, float] = field(default_factory=dict)

    def tighten(self, source: SourceText, bound: Bound) -> None:
        """Add a bound in place.

        Raises:
            SpecError: it leaves the input no value.
        """
        index, value = bound.index, bound.value
        if bound.upper:
            self.upper[index] = min(value, self.upper.get(index, value))
        else:
            self.lower[index] = max(value, self.lower.get(index, value))
        low, high = self.lower.get(index, -math.inf), self.upper.get(index, math.inf)
        if low > high:
            raise source.error(
                f"X_{index} has no value left: its lower bound {low!r} is above its upper bound "
                f"{high!r}",
                bound.offset,
            )

    def meet(self, other: BoundSet) -> BoundSet | None:
        """The bounds of both; `None` when they leave an input no value.

        `self` itself where `other` says nothing.
        """
        if not (other.lower or other.upper):
            return self
        lower = _tightest(self.lower, other.lower, max)
        upper = _tightest(self.upper, other.upper, min)
        if any(value > upper.get(index, value) for index, value in lower.items()):
            return None
        return BoundSet(lower, upper)

    def arrays(self, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bounds `[D]`, infinite where there is none."""
        lower, upper = np.full(size, -np.inf), np.full(size, np.inf)
        for array, bounds in ((lower, self.lower), (upper, self.upper)):
            places = np.fromiter(bounds, np.int64, len(bounds))
            array[places] = np.fromiter(bounds.values(), np.float64, len(bounds))
        return lower, upper


def _tightest(
    left: dict[int, float], right: dict[int, float], choose: Callable[[float, float], float]
) -> dict[int, float]:
    if not (left and right):
        return left or right
    return {**left, **{i: choose(v, left.get(i, v)) for i, v in right.items()}}
