"""The nearest counterexample so far, and the bracket's history."""

from __future__ import annotations

import math
import time

import numpy as np
from jaxtyping import Float

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.specs.distance import DistanceQuery

__all__ = ["Incumbent"]


class Incumbent:
    """Judges points; keeps the nearest that counts.

    Args:
        query: whose counterexamples.
        judge: says of a point whether it counts.
    """

    def __init__(self, query: DistanceQuery, judge: OnNearer) -> None:
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

    def offer(self, point: Float[np.ndarray, "..."]) -> bool:
        """Judge a point, moved into [0, 1] and rounded; True iff it is nearer and counts."""
        if not np.isfinite(point).all():
            return False
        shape = self._query.network.input_shape
        rounded = np.clip(point, 0.0, 1.0).astype(np.float32).reshape(shape)
        distance = self._query.distance(rounded)
        if not distance < self.best.distance or not self._judge(rounded, distance):
            return False
        self.best = Nearest(distance, rounded)
        self._remember()
        return True

    def prove(self, lower: float) -> None:
        """Keep a proved lower end if it is better."""
        if lower > self.lower:
            self.lower = lower
            self._remember()

    def _remember(self) -> None:
        seconds = time.monotonic() - self._begun
        self.history.append((seconds, min(self.lower, self.best.distance), self.best.distance))
