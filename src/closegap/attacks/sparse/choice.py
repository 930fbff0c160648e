"""Which undecided neuron of a node to split."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from closegap.attacks.sparse.options import Branching, Order, SparseOptions
from closegap.attacks.sparse.planes import Ranges
from closegap.attacks.sparse.relaxation import Solved
from closegap.branching.gains import GAINS
from closegap.core.numerics import CELL_TOLERANCE, CUT_VIOLATION, TINY

__all__ = ["Choice", "Chooser", "Gains", "preferred"]

Array = NDArray[np.float64]
#: `(unit, sign) -> proved bound` of a child.
Trial = Callable[[int, int], float]


@dataclass(frozen=True, eq=False)
class Choice:
    """A unit, and what is known of its children.

    Attributes:
        unit: which.
        bounds: of children that were bounded, by sign.
    """

    unit: int
    bounds: dict[int, float] = field(default_factory=dict)


class Chooser:
    """Chooses by an options' rule, and learns what splits are worth.

    Args:
        options: the rule.
        places: how many neurons there are; what is learned is kept by place.
    """

    def __init__(self, options: SparseOptions, places: int) -> None:
        self._options = options
        self._sum = np.zeros((2, places))
        self._seen = np.zeros((2, places), dtype=np.int64)

    def choose(
        self, solved: Solved, ranges: Ranges, place: NDArray[np.int64], trial: Trial
    ) -> Choice | None:
        """The unit to split, or `None` where every phase is fixed.

        Args:
            solved: the node's relaxation.
            ranges: of the node's units.
            place: of each unit.
            trial: bounds a child.
        """
        free = np.flatnonzero(ranges.free)
        if not len(free):
            return None
        if solved.above is None or solved.below is None:
            return Choice(int(free[0]))
        if self._options.branching is Branching.LARGEST:
            return Choice(int(free[np.argmax(solved.above[free])]))
        gap = np.minimum(solved.above, solved.below)[free]
        if gap.max() <= CELL_TOLERANCE:  # exact: whatever is nearest to its wall
            return Choice(int(free[np.argmin(np.maximum(solved.above, solved.below)[free])]))
        assert solved.chords is not None
        guess = gap * (CUT_VIOLATION + solved.chords[free])
        if self._options.branching is Branching.GAP:
            return Choice(int(free[np.argmax(guess)]))
        return self._by_gains(solved, (free, place[free], guess), trial)

    def learn(self, place: int, sign: int, gain: float) -> None:
        """Remember by how much a split raised the bound."""
        if math.isfinite(gain):
            self._sum[(sign > 0) * 1, place] += max(gain, 0.0)
            self._seen[(sign > 0) * 1, place] += 1

    def _by_gains(
        self,
        solved: Solved,
        candidates: tuple[NDArray[np.int64], NDArray[np.int64], Array],
        trial: Trial,
    ) -> Choice:
        free, place, guess = candidates
        scores = self._scores(place, guess)
        bounds: dict[tuple[int, int], float] = {}
        for best in np.argsort(-scores, kind="stable")[: self._options.tried]:
            if self._seen[:, place[best]].min() >= self._options.reliable or guess[best] <= 0:
                continue
            for sign in (1, -1):
                found = trial(int(free[best]), sign)
                bounds[int(free[best]), sign] = found
                self.learn(int(place[best]), sign, found - solved.lower)
        return self._settled(free, self._scores(place, guess), bounds)

    def _settled(
        self, free: NDArray[np.int64], scores: Array, bounds: dict[tuple[int, int], float]
    ) -> Choice:
        """The best by what was seen; a child that is closed decides at once."""
        both = {unit for unit, _ in bounds}
        least = {u: min(bounds[u, 1], bounds[u, -1]) for u in both}
        decided = [u for u in both if least[u] < math.inf and math.inf in
                   (bounds[u, 1], bounds[u, -1])]  # fmt: skip
        unit = int(free[np.argmax(scores)])
        if decided:
            unit = max(decided, key=lambda u: (least[u], -u))
        shut = [u for u in both if least[u] == math.inf]
        if shut:
            unit = min(shut)
        return Choice(unit, {sign: b for (u, sign), b in bounds.items() if u == unit})

    def _scores(self, place: NDArray[np.int64], guess: Array) -> Array:
        """What was seen of each side, else a guess at the scale of what was seen."""
        seen, total = self._seen[:, place], self._sum[:, place]
        known = seen.min(axis=0) > 0
        mean = total / np.maximum(seen, 1)
        worth = GAINS["product"](mean[0], mean[1])
        scale = 1.0
        if known.any() and guess[known].sum() > 0:
            scale = float(worth[known].sum() / guess[known].sum())
        return np.where(known, worth, scale * guess)


class Gains:
    """What splits of each neuron gained, for each unit of what it had cost the bound before.

    Args:
        places: how many neurons there are.
    """

    def __init__(self, places: int) -> None:
        self._gain = np.zeros((2, places))
        self._cost = np.zeros((2, places))
        self._waiting: dict[int, tuple[int, float]] = {}

    def expect(
        self,
        nodes: Int[np.ndarray, "B"],
        place: Int[np.ndarray, "B"],
        cost: Float[np.ndarray, "B"],
    ) -> None:
        """Children, by whose split they came about, and what the neuron cost their parents."""
        known = zip(place.tolist(), cost.tolist(), strict=True)
        self._waiting.update(zip(nodes.tolist(), known, strict=True))

    def learn(
        self,
        nodes: Int[np.ndarray, "B"],
        signs: Int[np.ndarray, "B"],
        gain: Float[np.ndarray, "B"],
    ) -> None:
        """By how much children's bounds are above their parents'; each child counts once."""
        seen = np.flatnonzero([node in self._waiting for node in nodes.tolist()])
        found = np.array([self._waiting.pop(int(node)) for node in nodes[seen]]).reshape(-1, 2)
        at = (signs[seen] > 0) * 1, found[:, 0].astype(np.int64)
        np.add.at(self._gain, at, np.maximum(gain[seen], 0.0))
        np.add.at(self._cost, at, found[:, 1])

    def scores(
        self, place: Int[np.ndarray, "U"], cost: Float[np.ndarray, "B U"]
    ) -> Float[np.ndarray, "B U"]:
        """What splits promise: the product of both sides' rates, the mean ones where none is known.

        Args:
            place: of each unit.
            cost: to each node's bound.
        """
        gain, paid = self._gain[:, place], self._cost[:, place]
        total = self._cost.sum(axis=1, keepdims=True)
        mean = np.where(total > 0, self._gain.sum(axis=1, keepdims=True) / (total + TINY), 1.0)
        rate = np.where(paid > 0, gain / (paid + TINY), mean)
        return np.asarray(GAINS["product"](rate[0] * cost, rate[1] * cost))


def preferred(options: SparseOptions, live: list[int], unit: int, solved: Solved) -> int | None:
    """Of the children that are open, the one with the unit on first, the one to visit next."""
    if not live or options.order is Order.BEST or options.batch:
        return None
    if len(live) == 1 or options.on_first:
        return live[0]
    on = solved.above is None or solved.below is None or solved.above[unit] > solved.below[unit]
    return live[0] if on else live[1]
