"""What a rule is told of the activation it encodes, and where it writes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int8

from closegap.core.errors import EncodingError
from closegap.encode.builder import ModelBuilder
from closegap.encode.expression import Expression
from closegap.encode.units import Units

__all__ = ["Site"]


@dataclass(frozen=True, eq=False)
class Site:
    """One activation node.

    Attributes:
        builder: takes columns and rows.
        units: takes the meaning of new columns.
        node: index of the pre-activation node.
        shape: of the pre-activation.
        lower: `[N]`, sound bounds of the pre-activation, finite.
        upper: `[N]`.
        phase: `[N]`: +1 the unit is on (input at least 0), -1 it is off (at most 0), 0 free.
        relax: leave integrality out, by the tightest linear relaxation of each unit alone.
        sign_gap: how far the threshold of a sign moves away from 0, times the input's scale:
            positive keeps clear of it (attack), negative reaches over it (proof).
        inexact: the rule adds a reason here when what it wrote only encloses the activation.
    """

    builder: ModelBuilder
    units: list[Units]
    node: int
    shape: tuple[int, ...]
    lower: Float[np.ndarray, "N"]
    upper: Float[np.ndarray, "N"]
    phase: Int8[np.ndarray, "N"]
    relax: bool
    sign_gap: float
    inexact: set[str] = field(default_factory=set)

    def fix_phases(self, z: Expression) -> None:
        """Add the rows that fixed phases ask for, where the bounds do not already hold them."""
        on = (self.phase > 0) & (self.lower < 0)
        off = (self.phase < 0) & (self.upper > 0)
        self.builder.add_expression_rows(z.rows(on), 0.0, np.inf)
        self.builder.add_expression_rows(z.rows(off), -np.inf, 0.0)

    def refuse_phases(self, kind: str) -> None:
        """Refuse fixed phases where they have no meaning.

        Raises:
            EncodingError: some phase is fixed.
        """
        if self.phase.any():
            raise EncodingError(f"phases of a {kind} (input node {self.node}) cannot be fixed")
