"""What a distance query comes to: a bracket, and the witness of its upper end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["DistanceInterrupted", "DistanceResult"]


@dataclass(frozen=True, eq=False)
class DistanceResult:
    """What is known of a least distance.

    Attributes:
        lower: proved: no counterexample is nearer; infinity where there is none at all in [0, 1].
        upper: attained by `witness`; infinity where none was found.
        witness: float32, replayed, in the network's input shape.
        tolerance: a bracket of this upper end is closed where it is this narrow.
        seconds: wall-clock.
        history: seconds, lower and upper end after every improvement.
        counts: what was done how often, such as nodes.
        part_seconds: wall-clock of each part.
        notes: who could do nothing, and why; for people.
    """

    lower: float
    upper: float
    witness: NDArray[np.float32] | None
    tolerance: float
    seconds: float
    history: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)
    counts: dict[str, int] = field(default_factory=dict)
    part_seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        """Whether lower and upper end meet within the tolerance, or there is proved to be none."""
        return self.none_exists or self.upper - self.lower <= self.tolerance

    @property
    def none_exists(self) -> bool:
        """Whether it is proved that no input in [0, 1] is a counterexample."""
        return self.lower == math.inf


class DistanceInterrupted(KeyboardInterrupt):
    """Ctrl-C during a distance query.

    Attributes:
        result: the bracket as it stood: proved below, replayed above.
    """

    def __init__(self, result: DistanceResult) -> None:
        super().__init__()
        self.result = result
