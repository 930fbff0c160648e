"""Distance queries: a bracket of the distance to the nearest counterexample.

Walks push the upper end down to a replayed witness; decision queries at radii in between push the
lower end up. The radius tried first is just below the upper end: where the witness is the nearest
one, that proof closes the bracket at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest, NearestAttack
from closegap.core.budget import Budget
from closegap.core.errors import OptionError, SoundnessError
from closegap.core.numerics import DISTANCE_TOLERANCE, FLOAT64_UNIT
from closegap.core.verdict import Verdict
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.strategy.solve import solve

__all__ = ["DistanceResult", "minimise_distance"]

_CHEAP = ("crown", "alpha-crown")
_COMPLETE = ("crown", "alpha-crown", "bab", "mip", "input-split")
#: Of the time: for the attack, and of what is left for one try at a radius.
_ATTACK_SHARE = 0.3
_TRY_SHARE = 0.5
#: Halvings of the interval by linear bounds alone, and the share of the time for one of them.
_HALVINGS = 6
_HALVING_SHARE = 0.05
#: Of the tolerance, how far below the upper end a proof is tried.
_BELOW = 0.9


@dataclass(frozen=True, eq=False)
class DistanceResult:
    """What is known of a least distance.

    Attributes:
        lower: proved: within it the label is kept.
        upper: attained by `witness`; infinity where none was found.
        witness: float32, replayed, in the network's input shape.
        tolerance: a bracket this narrow is closed.
        seconds: wall-clock.
        history: seconds, lower and upper end after every improvement.
    """

    lower: float
    upper: float
    witness: NDArray[np.float32] | None
    tolerance: float
    seconds: float
    history: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)

    @property
    def closed(self) -> bool:
        """Whether lower and upper end meet within the tolerance."""
        return self.upper - self.lower <= self.tolerance


def minimise_distance(
    query: DistanceQuery,
    *,
    timeout: float = 60.0,
    tolerance: float = DISTANCE_TOLERANCE,
    engines: Sequence[str] = _COMPLETE,
    attack: NearestAttack | None = None,
    seed: int = 0,
) -> DistanceResult:
    """Bracket the distance to the nearest counterexample.

    Args:
        query: network, image, label and norm.
        timeout: seconds.
        tolerance: stop once the bracket is this narrow, in input units.
        engines: for proofs at a radius.
        attack: for witnesses.
        seed: of every random choice.

    Raises:
        OptionError: timeout or tolerance is negative or NaN.
        SoundnessError: a proof and a witness exclude each other.
    """
    if not (timeout >= 0 and tolerance > 0):
        raise OptionError(f"timeout {timeout} and tolerance {tolerance} must be positive")
    budget = Budget.of_seconds(timeout, seed=seed)
    search = _Bracketing(query, tolerance, attack or NearestAttack(), budget)
    if not search.clean():
        search.attacks()
        search.halve()
        search.close(engines)
    return search.result()


class _Bracketing:
    """The bracket of one distance while it narrows."""

    def __init__(
        self, query: DistanceQuery, tolerance: float, attack: NearestAttack, budget: Budget
    ) -> None:
        self._query = query
        self._tolerance = tolerance
        self._attack = attack
        self._budget = budget
        self._started = time.monotonic()
        self._lower = 0.0
        self._best = Nearest()
        self._history: list[tuple[float, float, float]] = []

    def clean(self) -> bool:
        """Whether the image itself loses its label, at distance 0."""
        image = self._query.image.reshape(self._query.network.input_shape)
        if self._counts(image, 0.0):
            self._reach(Nearest(0.0, image))
        return self._best.found

    def attacks(self) -> None:
        """Search for near witnesses for a share of the time."""
        spend = self._budget.within(_ATTACK_SHARE * self._budget.remaining)
        self._reach(self._attack.run(self._query, spend, self._counts))

    def halve(self) -> None:
        """Raise the lower end by linear bounds."""
        high = self._best.distance
        for _ in range(_HALVINGS if self._best.found else 0):
            if self._done:
                return
            middle = (self._lower + min(high, self._best.distance)) / 2
            if not self._try(middle, _CHEAP, _HALVING_SHARE * self._budget.remaining):
                high = middle

    def close(self, engines: Sequence[str]) -> None:
        """Try just below the upper end; where that stays open, the middle."""
        high = math.inf  # the least radius that stayed open
        while self._best.found and not self._done:
            best = self._best.distance
            near = best - _BELOW * self._tolerance
            radius = near if high > best else (self._lower + high) / 2
            if self._try(radius, engines, _TRY_SHARE * self._budget.remaining):
                moved = self._best.distance < best or high - self._lower <= self._tolerance
                high = math.inf if moved else high
            else:
                high = radius

    @property
    def _done(self) -> bool:
        narrow = self._best.distance - self._lower <= self._tolerance
        return narrow or self._budget.expired

    def _try(self, radius: float, engines: Sequence[str], seconds: float) -> bool:
        """Decide one radius; True iff an end of the bracket moved."""
        spend = self._budget.within(seconds)
        result = solve(self._query.within(radius), engines=engines, budget=spend)
        if result.verdict is Verdict.VERIFIED:
            self._raise(radius)
        elif result.verdict is Verdict.FALSIFIED and result.witness is not None:
            self._improve(result.witness.input)
        return result.verdict is not Verdict.UNKNOWN

    def _improve(self, point: NDArray[np.float32]) -> None:
        distance = self._query.distance(point)
        if self._counts(point, distance):
            self._reach(Nearest(distance, point))
        spend = self._budget.within(_ATTACK_SHARE * self._budget.remaining)
        self._reach(self._attack.improve(self._query, point, spend, self._counts))

    def _counts(self, point: NDArray[np.float32], distance: float) -> bool:
        witness = replayer(self._query.network).witness(self._query.within(distance), point)
        return witness is not None and witness.breaks

    def _raise(self, radius: float) -> None:
        """Keep a proof; the ends of the region's box are rounded, perhaps towards the image."""
        self._lower = max(self._lower, radius * (1 - 4 * FLOAT64_UNIT) - 4 * FLOAT64_UNIT)
        self._remember()

    def _reach(self, nearest: Nearest) -> None:
        if nearest.distance < self._best.distance:
            self._best = nearest
            self._remember()

    def _remember(self) -> None:
        if self._lower >= self._best.distance and self._best.distance > 0:
            raise SoundnessError(
                f"the label was proved within {self._lower} and lost at {self._best.distance}; "
                "no distance is given: please report this network and image"
            )
        seconds = time.monotonic() - self._started
        self._history.append((seconds, self._lower, self._best.distance))

    def result(self) -> DistanceResult:
        """The bracket as it stands."""
        return DistanceResult(
            self._lower,
            self._best.distance,
            self._best.point,
            self._tolerance,
            time.monotonic() - self._started,
            tuple(self._history),
        )
