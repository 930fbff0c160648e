"""The nearest counterexample so far, and the bracket's history."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.core.errors import SoundnessError
from closegap.core.numerics import DISTANCE_STEP
from closegap.specs.distance import DistanceQuery

__all__ = ["Incumbent", "OnProved", "unheard"]

#: Told of every lower end that is proved.
OnProved: TypeAlias = Callable[[float], None]


def unheard(lower: float) -> None:
    """Whoever asks only for the end of it."""


class Incumbent:
    """Judges points; keeps the nearest that counts.

    Args:
        query: whose counterexamples.
        judge: says of a point whether it counts.
        told: of every better lower end.
    """

    def __init__(self, query: DistanceQuery, judge: OnNearer, told: OnProved = unheard) -> None:
        self._told = told
        self.best = Nearest()
        self.lower = -math.inf
        self.history: list[tuple[float, float, float]] = []
        self._query = query
        self._judge = judge
        self._begun = time.monotonic()

    @property
    def distance(self) -> float:
        """Of the nearest; infinity where there is none."""
        return self.best.distance

    def counts(self, point: NDArray[np.float32], distance: float) -> bool:
        """What the judge says of a point; nothing is kept."""
        return self._judge(point, distance)

    def offer(self, point: Float[np.ndarray, "..."]) -> bool:
        """Judge a point, moved into [0, 1] and rounded; True iff it is nearer and counts.

        Raises:
            SoundnessError: it counts, and is nearer than what was proved.
        """
        if not np.isfinite(point).all():
            return False
        shape = self._query.network.input_shape
        rounded = np.clip(point, 0.0, 1.0).astype(np.float32).reshape(shape)
        distance = self._query.distance(rounded)
        if not distance < self.best.distance or not self._judge(rounded, distance):
            return False
        rounding = DISTANCE_STEP * max(1.0, abs(self.lower)) if self.lower < math.inf else 0.0
        if distance < self.lower - rounding:
            raise SoundnessError(
                f"no counterexample can be nearer than {self.lower}, as was proved, and one lies "
                f"at {distance}; no distance is given: please report this network and image"
            )
        self.best = Nearest(distance, rounded)
        self._remember()
        return True

    def prove(self, lower: float) -> None:
        """Keep a proved lower end if it is better.

        Proofs look for what is nearer than the nearest: they say nothing of what is farther.
        """
        if lower > self._query.farthest:
            lower = math.inf  # no input of the box is so far: there is no counterexample at all
        lower = min(lower, self.distance)
        if lower > self.lower:
            self.lower = lower
            self._remember()
            self._told(lower)

    def _remember(self) -> None:
        seconds = time.monotonic() - self._begun
        self.history.append((seconds, min(self.lower, self.best.distance), self.best.distance))
