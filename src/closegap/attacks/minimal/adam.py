"""Adam's running moments, a lane a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.core.numerics import SEARCH_EPSILON

__all__ = ["Moments"]

_MEAN_DECAY, _SQUARE_DECAY = 0.9, 0.999


@dataclass(frozen=True, eq=False)
class Moments:
    """The running mean and mean square of the gradients (Kingma and Ba, 2015)."""

    mean: Float[Tensor, "L D"]
    square: Float[Tensor, "L D"]
    taken: int

    @classmethod
    def zero(cls, like: Float[Tensor, "L D"]) -> Moments:
        """Before the first step."""
        return cls(torch.zeros_like(like), torch.zeros_like(like), 0)

    def step(self, gradient: Float[Tensor, "L D"]) -> tuple[Float[Tensor, "L D"], Moments]:
        """The direction to go against, of size about 1 an entry, and the next moments."""
        taken = self.taken + 1
        mean = _MEAN_DECAY * self.mean + (1 - _MEAN_DECAY) * gradient
        square = _SQUARE_DECAY * self.square + (1 - _SQUARE_DECAY) * gradient.square()
        root = (square / (1 - _SQUARE_DECAY**taken)).sqrt()
        move = mean / (1 - _MEAN_DECAY**taken) / (root + SEARCH_EPSILON)
        return move, Moments(mean, square, taken)
