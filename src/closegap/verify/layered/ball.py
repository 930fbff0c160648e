"""How far linear functions fall within a Euclidean ball that a box cuts, in single precision.

Around a center a function `v . d` falls by at most what each input's room lets it, and by at most
`radius |v|`. Sides of the box that are near the center bound their inputs, which leave the norm;
other sides are as if they were not there. Around an image most pixels are at an end of their range.
"""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.core.numerics import TINY

__all__ = ["BallReach"]

#: Of the radius, how near a side of the box has to be to count.
_NEAR = 0.05


class BallReach:
    """A ball around a center inside a box.

    Args:
        center: float64, flat.
        radius: in float64.
        lower: of the box.
        upper: of the box.
        dtype: of the functions.
    """

    def __init__(
        self,
        center: Float[Tensor, "D"],
        radius: float,
        box: tuple[Float[Tensor, "D"], Float[Tensor, "D"]],
        dtype: torch.dtype,
    ) -> None:
        self.center = center
        self.radius = float(_above(torch.tensor(radius, dtype=torch.float64), dtype))
        lower, upper = box
        down, up = _room(center - lower, dtype), _room(upper - center, dtype)
        near = _NEAR * self.radius
        self._down, self._up = down * (down <= near), up * (up <= near)
        self._falls, self._rises = (down > near).to(dtype), (up > near).to(dtype)
        self._most = torch.maximum(self._down, self._up)
        self.vanished = len(center) * self.radius * float(torch.finfo(dtype).tiny) ** 0.5

    def length(self, rows: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """At least how far each row falls below its value at the center.

        But for rounding, relative to `size`, and for `vanished`, what squares lose that underflow.
        """
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        stopped = positive @ self._down - negative @ self._up
        return stopped + self.radius * self._norm(positive, negative)

    def size(self, rows: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        """A norm of rows that no row falls farther than."""
        norm = cast(Tensor, torch.linalg.vector_norm(rows, dim=-1))
        return rows.abs() @ self._most + self.radius * norm

    def toward(self, rows: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The gradient of `length`: where rows are least, as seen from the center, times -1."""
        positive, negative = rows.clamp(min=0), rows.clamp(max=0)
        norm = self._norm(positive, negative)[..., None].clamp(min=TINY)
        wide = (positive * self._falls + negative * self._rises) * (self.radius / norm)
        return wide + positive.sign() * self._down + negative.sign() * self._up

    def _norm(self, positive: Tensor, negative: Tensor) -> Tensor:
        return (positive.square() @ self._falls + negative.square() @ self._rises).sqrt()


def _room(distance: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded up, but zero stays zero."""
    wide = torch.nextafter(distance, torch.full_like(distance, torch.inf))
    return torch.where(distance > 0, _above(wide, dtype), 0.0).to(dtype)


def _above(values: Tensor, dtype: torch.dtype) -> Tensor:
    near = values.to(dtype)
    return torch.nextafter(near, torch.full_like(near, torch.inf))
