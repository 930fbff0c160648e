"""What a split is worth, from the bounds of its two children."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.core.numerics import TINY

__all__ = ["GAINS", "Gain"]

Array: TypeAlias = NDArray[np.float64]
#: `(gain of one child, gain of the other) -> worth`, greater is better.
Gain: TypeAlias = Callable[[Array, Array], Array]

#: Weight of the better child; enough to order candidates whose worse child gains nothing.
_TIE = 0.05


def _least_gain(first: Array, second: Array) -> Array:
    """The worse child's gain; ties are broken by the better one's."""
    return np.asarray(np.minimum(first, second) + _TIE * np.maximum(first, second))


def _product_gain(first: Array, second: Array) -> Array:
    """The geometric mean of both gains, the rule of mixed-integer solvers (Achterberg, 2007)."""
    floor = _TIE * np.maximum(np.maximum(first, second), TINY)
    return np.asarray(np.sqrt(np.maximum(first, floor) * np.maximum(second, floor)))


GAINS: dict[str, Gain] = {"min": _least_gain, "product": _product_gain}
