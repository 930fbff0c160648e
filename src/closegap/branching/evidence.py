"""What scorers may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["Evidence", "Scorer"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """B subdomains and U units after a bound was computed.

    Attributes:
        incoming: coefficient on each unit's output that entered its relaxation.
        lower: bounds of each unit's input.
        upper: likewise.
        open: units that can still be split.
        bias: of the affine layer that feeds the unit.
        layer: number of the unit's layer, from the input on.
        relief: estimated gain of units that are not ReLUs; zero elsewhere. `None` if all are.
        hinge: units that are ReLUs or leaky ReLUs. `None` if all are.
        residual: `incoming` without what joint constraints of several neurons take over: what is
            left for the unit's own relaxation. `None` without such constraints.
        resting: the value of each ReLU's input that the bound rests on. `None` if not computed.
    """

    incoming: Float[Tensor, "B U"]
    lower: Float[Tensor, "B U"]
    upper: Float[Tensor, "B U"]
    open: Bool[Tensor, "B U"]
    bias: Float[Tensor, " U"]
    layer: Int[Tensor, " U"]
    relief: Float[Tensor, "B U"] | None = None
    hinge: Bool[Tensor, " U"] | None = None
    residual: Float[Tensor, "B U"] | None = None
    resting: Float[Tensor, "B U"] | None = None

    def where_open(self, gain: Float[Tensor, "B U"]) -> Float[Tensor, "B U"]:
        """A ReLU's estimate, relief for other units, 0 where nothing can be split."""
        if self.relief is not None and self.hinge is not None:
            gain = gain.where(self.hinge, self.relief)
        return gain.where(self.open, gain.new_zeros(()))


#: Estimated gain of splitting each unit `[B, U]`: never negative, 0 where it cannot be split.
Scorer: TypeAlias = Callable[[Evidence], Tensor]
