"""How the entries of a network's input make up a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from closegap.core.errors import OptionError

__all__ = ["Grid"]

_CHANNELS = (1, 3, 4)
#: A flat input of 3 n n entries is taken for a colour picture from this side on.
_LEAST_COLOUR_SIDE = 8


@dataclass(frozen=True)
class Grid:
    """A picture's size, and the order of its entries.

    Attributes:
        channels, height, width: of the picture.
        channels_last: entries run over `[H, W, C]`, not `[C, H, W]`.
    """

    channels: int
    height: int
    width: int
    channels_last: bool = False

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise OptionError(f"a picture of {self.channels}x{self.height}x{self.width} is empty")

    @classmethod
    def of(cls, shape: tuple[int, ...], *, channels_last: bool = False) -> Grid:
        """The picture in an input of this shape.

        `[C, H, W]` or, where only the last axis has 1, 3 or 4 entries, `[H, W, C]`; leading axes of
        length 1 are dropped. A flat input is a grey square, or a `[3, n, n]` colour picture with
        n >= 8, where its size allows it; any other is a line of pixels.

        Args:
            shape: of the input.
            channels_last: whether a flat colour picture is `[n, n, 3]`.
        """
        axes = list(shape)
        while len(axes) > 3 and axes[0] == 1:
            axes.pop(0)
        bare = [n for n in axes if n != 1]
        if len(bare) <= 1:
            return cls._of_flat(math.prod(axes), channels_last=channels_last)
        if len(axes) == 2:
            return cls(1, axes[0], axes[1])
        if len(axes) != 3:
            return cls(1, 1, math.prod(axes))
        if axes[2] in _CHANNELS and axes[0] not in _CHANNELS:
            return cls(axes[2], axes[0], axes[1], channels_last=True)
        return cls(axes[0], axes[1], axes[2])

    @classmethod
    def _of_flat(cls, size: int, *, channels_last: bool) -> Grid:
        side = math.isqrt(size)
        if side * side == size:
            return cls(1, side, side)
        side = math.isqrt(size // 3)
        if 3 * side * side == size and side >= _LEAST_COLOUR_SIDE:
            return cls(3, side, side, channels_last)
        return cls(1, 1, size)

    @property
    def size(self) -> int:
        """Entries of the input (D)."""
        return self.channels * self.height * self.width

    @property
    def pixels(self) -> int:
        """Pixels, their channels counted once."""
        return self.height * self.width

    @cached_property
    def entries(self) -> Int[np.ndarray, "C H W"]:
        """The flat input entry of each channel, row and column."""
        flat = np.arange(self.size)
        if self.channels_last:
            return flat.reshape(self.height, self.width, self.channels).transpose(2, 0, 1)
        return flat.reshape(self.channels, self.height, self.width)

    @cached_property
    def pixel_of(self) -> Int[np.ndarray, "D"]:
        """The pixel, counted row by row, of each input entry."""
        owner = np.empty(self.size, dtype=np.int64)
        owner[self.entries.reshape(self.channels, -1)] = np.arange(self.pixels)
        return owner

    @cached_property
    def edges(self) -> Int[np.ndarray, "E 2"]:
        """Neighbours in one channel: `[p, q]`, q to the right of p or below; rightward ones first.

        Every picture's total variation is over these: `sum |x_q - x_p|`.
        """
        at = self.entries
        right = np.stack([at[:, :, :-1].reshape(-1), at[:, :, 1:].reshape(-1)], axis=1)
        below = np.stack([at[:, :-1].reshape(-1), at[:, 1:].reshape(-1)], axis=1)
        return np.concatenate([right, below])

    @cached_property
    def sites(self) -> Int[np.ndarray, "E"]:
        """The entry in whose isotropic term `sqrt(right^2 + below^2)` each edge is: its p."""
        return self.edges[:, 0]
