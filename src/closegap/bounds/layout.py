"""How coefficients on images lie in memory.

On CPUs a float64 transposed convolution is twice as fast where the channels of a pixel are
neighbours (measured: 15 against 8 billion products a second; float32 gains little). Shapes and
values do not depend on it: `[..., C, H, W]` stays `[..., C, H, W]`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from closegap.bounds.records import Relaxation

__all__ = ["arranged", "arranged_lines", "flat_pair"]

#: Dimensions of `[B, Q, C, H, W]`.
_IMAGE_ROWS = 5


def arranged(images: Tensor) -> Tensor:
    """`[..., C, H, W]` in the layout that convolutions of its dtype and device like best."""
    if images.dtype != torch.float64 or images.device.type != "cpu":
        return images
    return images.movedim(-3, -1).contiguous().movedim(-1, -3)


def arranged_lines(lines: Relaxation) -> Relaxation:
    """Lines around an activation on images `[B, Q, C, H, W]`, in the coefficients' layout."""
    return lines.map(lambda part: arranged(part) if part.dim() == _IMAGE_ROWS else part)


def flat_pair(rows: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
    """`[B, Q, ...]` and `[B or 1, Q or 1, ...]` flattened to three dimensions in one order.

    The order is that of the rows in memory, so that they, the larger part, are not copied.
    """
    if rows.dim() == _IMAGE_ROWS and rows.stride(2) == 1:
        rows, vector = rows.movedim(2, 4), vector.movedim(2, 4)
    return rows.flatten(2), vector.flatten(2)
