"""Rounding of values that two or three float operations made."""

from __future__ import annotations

import torch
from torch import Tensor

from closegap.core.numerics import gamma

__all__ = ["line_rounding"]

#: Elementary functions (exp, tanh) in torch are within a few units in the last place.
_OPERATIONS = 16


def line_rounding(size: Tensor) -> Tensor:
    """How far a value of magnitude `size`, made by a few operations, may be off."""
    unit = float(torch.finfo(size.dtype).eps) / 2
    return gamma(_OPERATIONS, unit) * size.abs()
