"""The bracket of one distance while it narrows: who may push which end, and for how long.

Every point that the judge accepts and every bound that is proved moves the bracket at once, so that
an interruption loses nothing.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.nearest import Nearest, NearestAttack
from closegap.attacks.minimal.settle import Settling, kept_for_settling
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import OURS
from closegap.attacks.sparse.staged import StagedSearch
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT, TINY
from closegap.core.stopwatch import Stopwatch
from closegap.core.tolerance import Tolerance
from closegap.core.verdict import Verdict
from closegap.runtime.cache import replayer
from closegap.specs.distance import DistanceQuery
from closegap.strategy.distance_result import (
    DistanceResult,
    contradiction,
    require_consistent,
)
from closegap.strategy.exact_solvers import EXACT
from closegap.strategy.failures import describe_failure
from closegap.strategy.solve import solve
from closegap.strategy.witnesses import STARTS_MOST, Witnesses
from closegap.verify.distance_floor import FloorOptions, distance_floor
from closegap.verify.secants import secant_floor

__all__ = ["Bracketing"]

_CHEAP = ("crown", "alpha-crown")
#: On small networks, of what is left, for a tree before all attacks; of short times up to twice as
#: much, for so many seconds.
_EARLY_SHARE, _EARLY_SECONDS = 0.15, 2.0
#: Of what is left, for the tree, and for a turn of the tree or of proofs at radii; in seconds, the
#: least turn. A tree that would leave less open than this share of the distance goes on.
_TREE_SHARE, _TURN_SHARE, _LEAST_TURN, _NEARLY = 0.9, 0.35, 1.0, 0.02
#: Of what is left, for the first try just below the upper end; the next tries are twice as long.
#: In a turn more of it; but while the lower end is below this share of the upper one, only so much
#: of the try's time.
_TURN_FIRST, _WIDE, _WIDE_TRY = 0.5, 0.75, 0.25
_FIRST_SHARE = 0.125
#: Then so many tries between the ends, for this share of its time each. A try goes so far from the
#: lower end, as a share of what is open, at most; half as far after one that said nothing.
_MIDDLES, _MIDDLE_SHARE, _FARTHEST_STEP = 3, 0.5, 0.5
#: Of what is left, for secants, and for the planes of linear bounds.
_SECANT_SHARE, _FLOOR_SHARE = 0.25, 0.2
#: Under norms, planes with plain slopes alone: halvings with better ones follow.
_ROUGH = FloorOptions(climbs=0)
#: Halvings of the interval by linear bounds alone, and the share of the time for one of them.
_HALVINGS = 4
_HALVING_SHARE = 0.05
#: Of the bracket, how much of it has to go for a line of the history; trees prove in small steps.
_MOVED = 0.01
#: Counterexamples that are kept for other distances.
_SEEN_MOST = 100
#: Of the tolerance, how far below the upper end a proof is tried.
_BELOW = 0.9


class Bracketing:
    """The bracket of one distance while it narrows."""

    def __init__(
        self, query: DistanceQuery, tolerance: Tolerance, attack: NearestAttack, budget: Budget
    ) -> None:
        self._query = query
        self._tolerance = tolerance
        self._whole, self._budget = budget, kept_for_settling(budget)
        self._witnesses = Witnesses(query, attack, self._budget, self._counts, lambda: self._best)
        self._started = time.monotonic()
        self._lower = _floor(query)
        self._best = self._settled = Nearest()
        self._seen: deque[NDArray[np.float32]] = deque(maxlen=_SEEN_MOST)
        self._history: list[tuple[float, float, float]] = []
        self._counts_of: dict[str, int] = {}
        self._notes: list[str] = []
        self._tree: StagedSearch | None = None
        self._felled = False
        self._step = _FARTHEST_STEP
        self._failed: set[str] = set()
        self._watch = Stopwatch()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the work and its seconds; a failure is a note, and what was shown stands."""
        try:
            with self._watch.part(name):
                yield
        except Exception as error:  # whatever one part does, the others go on
            self._failed.add(name)
            self._notes.append(describe_failure(name, error)[1])

    def begin(self, starts: Sequence[Nearest]) -> None:
        """Keep the nearest of some counterexamples; attacks go on from the nearest few."""
        known = [n for n in starts if n.point is not None and self._counts(n.point, n.distance)]
        self._witnesses.known = tuple(known[:STARTS_MOST])

    def clean(self) -> bool:
        """Whether the image itself loses its label, at distance 0."""
        self._counts(self._query.image.reshape(self._query.network.input_shape), 0.0)
        return self._best.found

    def first_floor(self) -> None:
        """A first lower end, by secants through the image: at once, whatever comes later."""
        if not self._done:
            spend = self._budget.within(_SECANT_SHARE * self._budget.remaining)
            secant_floor(self._query, spend, upper=self._best.distance, prove=self._prove)

    def attacks(self) -> None:
        """Search for near witnesses for a share of the time."""
        if not self._done:
            self._witnesses.search()
            self.settle()

    def rest(self) -> None:
        """What exact solvers left of the time, for witnesses: the bracket is still open."""
        if not self._done:
            with self.part("rest"):
                self._witnesses.rest()

    def settle(self) -> None:
        """Bring the nearest witness to the nearest point of its linear region."""
        if self._best is not self._settled:
            with self.part("settling"):
                Settling().run(self._query, self._best, self._whole, self._counts)
            self._settled = self._best

    def halve(self) -> None:
        """Raise the lower end by linear bounds."""
        if self._done:
            return
        norm = self._query.objective.norm
        spend = self._budget.within(_FLOOR_SHARE * self._budget.remaining)
        options = FloorOptions() if norm is None else _ROUGH
        ends = {"lower": self._lower, "upper": self._best.distance}
        distance_floor(self._query, spend, **ends, options=options, prove=self._prove)
        if norm is None:
            return
        high = self._farthest
        for _ in range(_HALVINGS):
            if self._done:
                return
            middle = (self._lower + min(high, self._best.distance)) / 2
            if not self._try(middle, _CHEAP, _HALVING_SHARE * self._budget.remaining):
                high = middle

    def early(self) -> None:
        """On small networks, a turn of the tree before all attacks: it may close at once."""
        if self._done or not self._witnesses.late:
            return
        self._tree = self._planted()
        least = min(_EARLY_SECONDS, 2 * _EARLY_SHARE * self._budget.remaining)
        self._turn(max(_EARLY_SHARE * self._budget.remaining, least))

    def _turn(self, seconds: float) -> None:
        """Of the tree, which is felled where it ended."""
        if self._tree is None:
            return
        with self.part("tree"):
            self._tree.offer(self._best.point)
            self._tree.grow(self._budget.within(seconds))
        self._counts_of["nodes"] = self._tree.nodes
        if "tree" in self._failed or not self._tree.paused:
            self._tree, self._felled = None, True

    def race(self, engines: Sequence[str]) -> None:
        """The tree and proofs at radii in turn, more and more of it to who pays.

        Either end of what is open, the tree's own and the bracket's, is taken to shrink on by the
        same share a second; who would leave less open has the next turn. A tree that is about to
        close is not disturbed.
        """
        if self._tree is None and not (self._done or self._felled):
            self._tree = self._planted()
        waiting = True
        rates = {"tree": math.inf, "radii": 0.0 if self._tree is None else math.nan}
        while not self._done:
            tree, turn = self._tree, max(_TURN_SHARE * self._budget.remaining, _LEAST_TURN)
            name = "radii" if tree is None else self._next(tree, rates, turn)
            if waiting and (tree is None or not self._closing(tree, rates)):
                waiting = False
                with self.part("long attacks"):
                    self._witnesses.long()
            open_, begun = self._open(tree, name), time.monotonic()
            if name == "tree":
                self._turn(turn)
            else:
                with self.part(name):
                    self.close(engines, self._budget if tree is None else self._budget.within(turn))
            spent = max(time.monotonic() - begun, TINY)
            self.settle()
            if "radii" in self._failed:
                self._turn(self._budget.remaining)
                return
            shrunk = self._open(self._tree, name) / max(open_, TINY)
            rates[name] = -math.log(max(shrunk, TINY)) / spent

    def _planted(self) -> StagedSearch | None:
        """A tree for most of the time, bounded at its roots; `None` where that failed."""
        spend = self._budget.within(_TREE_SHARE * self._budget.remaining)
        incumbent = Incumbent(self._query, self._counts, self._prove)
        options = replace(OURS, attack=None, known=self._lower, tolerance=self._tolerance)
        with self.part("tree"):
            search = StagedSearch(options, self._query, spend, incumbent)
            search.begin(() if self._best.point is None else (self._best.point,))
            self._notes += search.notes
            return search
        self._felled = True
        return None

    def _open(self, tree: StagedSearch | None, name: str) -> float:
        """What is left between the upper end and the tree's lower end, or the bracket's."""
        lower = tree.least if tree is not None and name == "tree" else self._lower
        return min(self._best.distance, self._farthest) - lower

    def _closing(self, tree: StagedSearch, rates: dict[str, float]) -> bool:
        """Whether the tree leaves next to nothing open, if it goes on as it began."""
        if math.isinf(rates["tree"]):
            return True
        left = math.exp(-rates["tree"] * self._budget.remaining)
        return left * self._open(tree, "tree") <= _NEARLY * self._best.distance

    def _next(self, tree: StagedSearch, rates: dict[str, float], turn: float) -> str:
        """Whose turn it is."""
        if self._closing(tree, rates):
            return "tree"
        if math.isnan(rates["radii"]):
            return "radii"
        by_tree = self._open(tree, "tree") * math.exp(-rates["tree"] * turn)
        by_radii = self._open(tree, "radii") * math.exp(-rates["radii"] * turn)
        return "tree" if by_tree < by_radii else "radii"

    def close(self, engines: Sequence[str], turn: Budget | None = None) -> None:
        """Rounds of longer and longer tries: just below the upper end, then between the ends.

        While no counterexample is known the upper end is the farthest corner: there may be none.
        """
        turn = turn or self._budget
        effort = (_FIRST_SHARE if turn is self._budget else _TURN_FIRST) * turn.remaining
        while not (self._done or turn.expired):
            below = self._best.distance - _BELOW * self._width
            wide = self._lower < _WIDE * self._best.distance
            first = min(_WIDE_TRY * effort if wide else effort, turn.remaining)
            self._try(min(below, self._farthest), engines, first)
            for _ in range(_MIDDLES):
                high = min(self._farthest, self._best.distance)
                if self._done or turn.expired or high - self._lower <= self._width:
                    break
                radius = self._lower + self._step * (high - self._lower)
                moved = self._try(radius, engines, _MIDDLE_SHARE * effort)
                self._step = min(2 * self._step, _FARTHEST_STEP) if moved else self._step / 2
            effort *= 2

    def solve(self, name: str) -> None:
        """Let an exact solver push both ends, from the best point; a tree that began goes on."""
        if self._done:
            return
        if name == "tree" and (self._tree is not None or self._felled):
            self._turn(self._budget.remaining)
            return
        starts = () if self._best.point is None else (self._best.point,)
        solver = EXACT[name](self._lower, self._tolerance)
        with self.part(name):
            answer = solver.run(self._query, self._budget, self._counts, starts, self._prove)
            self._counts_of["nodes"] = self._counts_of.get("nodes", 0) + answer.nodes
            self._notes += answer.notes
            self._prove(answer.lower)

    def _prove(self, lower: float) -> None:
        """Keep a proved lower end."""
        if lower > self._farthest:
            lower = math.inf  # no input of the box is so far: there is no counterexample at all
        require_consistent(lower, self._best.distance)
        lower = min(lower, self._best.distance)
        if lower > self._lower:
            self._lower = lower
            self._remember()

    @property
    def _done(self) -> bool:
        if self._lower == math.inf or self._budget.expired:
            return True
        return self._tolerance.closes(self._lower, self._best.distance)

    @property
    def _width(self) -> float:
        """Of a closed bracket."""
        return self._tolerance.width(self._best.distance)

    @property
    def _farthest(self) -> float:
        """No input of the box is farther."""
        return self._query.farthest

    def _try(self, radius: float, engines: Sequence[str], seconds: float) -> bool:
        """Decide one radius; True iff an end of the bracket moved."""
        before = self._lower, self._best.distance
        spend = self._budget.within(seconds)
        result = solve(self._query.within(radius), engines=engines, budget=spend)
        if result.verdict is Verdict.VERIFIED:
            self._raise(radius)
        elif result.verdict is Verdict.FALSIFIED and result.witness is not None:
            self._improve(result.witness.input)
        return (self._lower, self._best.distance) != before

    def _improve(self, point: NDArray[np.float32]) -> None:
        self._counts(point, self._query.distance(point))
        self._witnesses.improve(point)

    def _counts(self, point: NDArray[np.float32], distance: float) -> bool:
        """Whether a point at its distance is a counterexample; the nearest one is kept."""
        witness = replayer(self._query.network).witness(self._query.within(distance), point)
        broken = witness is not None and witness.breaks
        if broken:
            self._seen.append(point.copy())
            self._reach(Nearest(distance, self._seen[-1]))
        return broken

    def _raise(self, radius: float) -> None:
        """Keep a proof; the ends of the region's box are rounded, perhaps towards the image."""
        if radius >= self._farthest:
            self._prove(math.inf)  # the region was the whole box
            return
        self._lower = max(self._lower, radius - 4 * FLOAT64_UNIT * (1 + abs(radius)))
        if self._lower >= self._best.distance and self._best.distance > 0:
            raise contradiction(self._lower, self._best.distance)
        self._remember()

    def _reach(self, nearest: Nearest) -> None:
        if nearest.distance < self._best.distance:
            self._best = nearest
            require_consistent(self._lower, self._best.distance)
            self._lower = min(self._lower, self._best.distance)
            self._remember()

    def _remember(self, least: float = _MOVED) -> None:
        """A line of the history, unless little moved since the last."""
        if self._history and not self._moved(least):
            return
        seconds = time.monotonic() - self._started
        self._history.append((seconds, self._lower, self._best.distance))

    def _moved(self, least: float) -> bool:
        """Whether more than this share of what the last line left open has gone since."""
        _, lower, upper = self._history[-1]
        best = self._best.distance
        if (self._lower, best) == (lower, upper):
            return False
        fallen = 0.0 if best == upper else upper - best
        return fallen + self._lower - lower > least * (min(upper, self._farthest) - lower)

    def result(self) -> DistanceResult:
        """The bracket as it stands."""
        self._remember(least=0.0)
        return DistanceResult(
            self._lower,
            self._best.distance,
            self._best.point,
            self._width,
            time.monotonic() - self._started,
            tuple(self._history),
            self._counts_of,
            self._watch.seconds,
            tuple(dict.fromkeys(self._notes)),
            tuple(self._seen),
        )


def _floor(query: DistanceQuery) -> float:
    """The least the distance can be: 0, or less where changes may be rewarded."""
    center, nothing = query.center, np.zeros((1, query.center.size))
    ends = np.zeros(center.size), np.ones(center.size)
    return float(query.objective.least(center, nothing, np.zeros(1), *ends)[0])
