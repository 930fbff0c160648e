"""Windows of images: where they lie among flat inputs, and the pattern of two humps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Grid", "two_humps"]


@dataclass(frozen=True)
class Grid:
    """How flat inputs lie in an image; inputs that are no image are one row of one channel."""

    channels: int
    height: int
    width: int

    @classmethod
    def of_shape(cls, shape: tuple[int, ...]) -> Grid:
        """`(C, H, W)`, or `(H, W)`, as an image; anything else as one row."""
        if len(shape) == 3:
            return cls(*shape)
        if len(shape) == 2:
            return cls(1, *shape)
        return cls(1, 1, math.prod(shape))

    def window(self, share: float, *, least: int = 1, odd: bool = False) -> tuple[int, int]:
        """Height and width of the square that holds this share of a channel.

        Args:
            share: of the pixels.
            least: pixels of a side at least, as far as the image has them.
            odd: whether to enlarge even sides by one, likewise.
        """
        if self.height == 1:
            return 1, min(self.width, max(least, round(share * self.width)))
        side = max(least, round(math.sqrt(share * self.height * self.width)))
        side += odd and side % 2 == 0
        return min(side, self.height), min(side, self.width)

    def places(
        self, lanes: tuple[int, int], size: tuple[int, int], random: torch.Generator
    ) -> Int[Tensor, "B L S"]:
        """Flat positions of one window a lane, drawn uniformly; channel by channel."""
        device = random.device
        top, left = (
            (torch.rand(lanes, generator=random, device=device) * (room + 1)).long().clamp(max=room)
            for room in (self.height - size[0], self.width - size[1])
        )
        rows = torch.arange(size[0], device=device)[:, None] * self.width
        within = (rows + torch.arange(size[1], device=device)).reshape(-1)
        channel = torch.arange(self.channels, device=device) * self.height * self.width
        offsets = (channel[:, None] + within).reshape(-1)
        return (top * self.width + left)[..., None] + offsets


def two_humps(
    height: int, width: int, *, device: torch.device | str = "cpu"
) -> Float[Tensor, "height width"]:
    """A window of Euclidean length 1: a hump in its first half, the same dent in its second.

    Source: Andriushchenko et al., Square Attack, ECCV 2020, section 3.4.
    """
    if height == 1:
        return two_humps(width, 1, device=device).T if width > 1 else torch.ones(1, 1).to(device)
    upper = _hump(height // 2, width, device)
    lower = _hump(height - height // 2, width, device)
    whole = torch.cat([upper, -lower])
    return _unit(whole)


def _hump(height: int, width: int, device: torch.device | str) -> Float[Tensor, "height width"]:
    """Squares one inside the other, each adding the more the smaller it is; length 1."""
    rows = (torch.arange(height, device=device) - height // 2).abs()
    columns = (torch.arange(width, device=device) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns)
    count = int(ring.max()) + 1
    layers = 1.0 / (1.0 + torch.arange(count, device=device)).square()
    # The ring of number r lies in the squares r, r + 1, ..., and the smallest adds 1.
    sums = layers.flip(0).cumsum(0).flip(0)
    hump = sums[ring]
    return _unit(hump)


def _unit(window: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    length: Tensor = torch.linalg.vector_norm(window)
    return window / length
