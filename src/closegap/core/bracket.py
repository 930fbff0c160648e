"""The bracket: what is proved below the optimum and what is attained above it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.core.verdict import Reason, Verdict

__all__ = ["Bracket", "Witness"]


@dataclass(frozen=True, eq=False)
class Witness:
    """An input that attains an upper bound, exactly as it was replayed.

    Attributes:
        input: float32, in the network's own input shape; inside the region with no tolerance.
        outputs_float32: the ONNX file's outputs at `input`, evaluated by onnxruntime.
        outputs_float64: the same network evaluated in float64.
        margin_float32: the property's margin on `outputs_float32`.
        margin_float64: the property's margin on `outputs_float64`.
        breaks: True iff the property is broken by both evaluations.
    """

    input: NDArray[np.float32]
    outputs_float32: NDArray[np.float32]
    outputs_float64: NDArray[np.float64]
    margin_float32: float
    margin_float64: float
    breaks: bool

    @property
    def margin(self) -> float:
        """The weaker (larger) of the two margins."""
        return max(self.margin_float32, self.margin_float64)


@dataclass(frozen=True, eq=False)
class Bracket:
    """`lower <= optimum <= upper`, where the optimum is the least margin over the region.

    `lower` is proved (rounding included); `upper` is attained by `witness`. A NaN is never stored:
    raising a bound by a NaN leaves it where it was.
    """

    lower: float = -math.inf
    upper: float = math.inf
    witness: Witness | None = field(default=None, repr=False)
    lower_engine: str = ""
    upper_engine: str = ""

    def raise_lower(self, value: float, engine: str) -> Bracket:
        """Return the bracket with `lower` raised to `value` if that is an improvement."""
        if not value > self.lower:
            return self
        return replace(self, lower=float(value), lower_engine=engine)

    def reduce_upper(self, witness: Witness, engine: str) -> Bracket:
        """Return the bracket with `upper` reduced to the witness's margin if that is lower.

        A witness that breaks the property always replaces one that does not.
        """
        holds_better = self.witness is not None and self.witness.breaks and not witness.breaks
        gains = witness.margin < self.upper
        first_break = witness.breaks and not (self.witness is not None and self.witness.breaks)
        if holds_better or not (gains or first_break):
            return self
        return replace(self, upper=float(witness.margin), witness=witness, upper_engine=engine)

    @property
    def verdict(self) -> Verdict:
        """Falsified iff the witness breaks the property; verified iff `lower > 0`."""
        if self.witness is not None and self.witness.breaks:
            return Verdict.FALSIFIED
        if self.lower > 0.0:
            return Verdict.VERIFIED
        return Verdict.UNKNOWN

    @property
    def contradicts_itself(self) -> bool:
        """True iff a proof and a witness exclude each other: an unsound corner was found."""
        return self.lower > 0.0 and self.witness is not None and self.witness.breaks

    def reason(self, fallback: Reason) -> Reason | None:
        """`None` when decided, else why it is open."""
        return None if self.verdict is not Verdict.UNKNOWN else fallback
