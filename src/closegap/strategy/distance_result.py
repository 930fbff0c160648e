"""What a distance query comes to: a bracket, and the witness of its upper end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from closegap.core.errors import SoundnessError
from closegap.core.numerics import DISTANCE_STEP

__all__ = ["DistanceInterrupted", "DistanceResult", "contradiction", "require_consistent"]


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
        seen: counterexamples that came up on the way, float32, each replayed, the last of them:
            far in this distance, they may be near in another.
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
    seen: tuple[NDArray[np.float32], ...] = field(default=(), repr=False)

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


def require_consistent(lower: float, distance: float) -> None:
    """Nothing, unless a counterexample is nearer than was proved, by more than rounding.

    Args:
        lower: proved.
        distance: of a counterexample; infinity for none.

    Raises:
        SoundnessError: one of them is wrong.
    """
    rounding = DISTANCE_STEP * max(1.0, abs(lower)) if math.isfinite(lower) else 0.0
    if distance < lower - rounding:
        raise contradiction(lower, distance)


def contradiction(lower: float, distance: float) -> SoundnessError:
    """What is raised where a proof and a counterexample exclude each other."""
    return SoundnessError(
        f"the label was proved within {lower} and lost at {distance}; "
        "no distance is given: please report this network and image"
    )
