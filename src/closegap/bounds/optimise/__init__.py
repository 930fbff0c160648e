"""Choosing the free parameters of a bound: slopes (alpha) and split multipliers (beta)."""

from __future__ import annotations

from closegap.bounds.optimise.ascent import Ascent, AscentOptions, AscentResult
from closegap.bounds.optimise.climb import Splits
from closegap.bounds.optimise.mixed import MixedPrecision, RowOptimiser, in_dtype
from closegap.bounds.optimise.warm import WarmStarts

__all__ = [
    "Ascent",
    "AscentOptions",
    "AscentResult",
    "MixedPrecision",
    "RowOptimiser",
    "Splits",
    "WarmStarts",
    "in_dtype",
]
