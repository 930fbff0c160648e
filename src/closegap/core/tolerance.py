"""How narrow a bracket of a least distance has to be before it is closed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from closegap.core.errors import OptionError
from closegap.core.numerics import DISTANCE_SHARE, DISTANCE_STEP, DISTANCE_TOLERANCE

__all__ = ["Tolerance"]


@dataclass(frozen=True)
class Tolerance:
    """The lesser of an absolute width and a share of the upper end.

    Distances differ in size: of 30 in l1 a width of 1e-4 is next to nothing, of 0.02 in linf it is
    half a percent.

    Attributes:
        absolute: in units of the distance; infinity for none.
        relative: a share of the upper end's magnitude, below 1; infinity for none. It asks for no
            less than `DISTANCE_STEP`: counterexamples are float32 images.

    Raises:
        OptionError: one is NaN or not positive, the share is 1 or more, or both are infinite.
    """

    absolute: float = DISTANCE_TOLERANCE
    relative: float = DISTANCE_SHARE

    def __post_init__(self) -> None:
        share = self.relative < 1 or self.relative == math.inf
        if not (self.absolute > 0 and self.relative > 0 and share):
            raise OptionError(
                f"a tolerance of {self.absolute} and a share of {self.relative} of the distance: "
                "both must be positive, and the share below 1"
            )
        if self.absolute == self.relative == math.inf:
            raise OptionError("a tolerance must be finite, or a share of the distance")

    @classmethod
    def parse(cls, text: str) -> Tolerance:
        """`0.1%` for a share of the distance alone, or a number in its units alone.

        Raises:
            OptionError: it is neither, or out of range.
        """
        share = text.strip().endswith("%")
        try:
            value = float(text.strip().removesuffix("%"))
        except ValueError:
            value = math.nan
        if not 0 < value < (100 if share else math.inf):
            raise OptionError(
                f"'{text}' is no tolerance: give a positive number such as 1e-5, in the distance's "
                "units, or a share of the distance such as 0.1%, below 100%"
            )
        return cls(math.inf, value / 100) if share else cls(value, math.inf)

    def width(self, upper: float) -> float:
        """How wide a closed bracket may be; finite, and positive.

        Args:
            upper: the attained end; infinity where nothing was found.
        """
        if math.isinf(upper):
            return min(self.absolute, DISTANCE_TOLERANCE)
        return min(self.absolute, max(self.relative * abs(upper), DISTANCE_STEP))

    def closes(self, lower: float, upper: float) -> bool:
        """Whether an attained end is so near to the proved one; never without a counterexample."""
        return upper < math.inf and upper - lower <= self.width(upper)

    def __str__(self) -> str:
        parts = [f"{self.absolute:g}"] if self.absolute < math.inf else []
        parts += [f"{100 * self.relative:g}%"] if self.relative < math.inf else []
        return " and ".join(parts)
