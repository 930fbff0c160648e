"""A tree of least distances that has grown long, helped by trees within smaller distances.

Within a smaller distance fewer phases are open and every bound is tighter, so a tree there is
shorter by far: what it proves, that nothing is nearer, raises the lower end from the first seconds.
Sizes grow about exponentially with the distance. Distances between what is proved and the least
one that stayed open are tried, in geometric means, until both are near; then the open tree goes on.
Once sizes say that the whole tree ends in time, it goes on in place of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.sparse.answer import SparseAnswer
from closegap.attacks.sparse.curved import curved_note
from closegap.attacks.sparse.incumbent import Incumbent
from closegap.attacks.sparse.options import SparseOptions
from closegap.attacks.sparse.pixel_search import PixelSearch
from closegap.attacks.sparse.search import SparseSearch
from closegap.core.budget import Budget
from closegap.core.stopwatch import Stopwatch
from closegap.graph.ops import LeakyRelu, Relu
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import L0Distance
from closegap.verify.secants import secant_floor

__all__ = ["StagedSearch"]

#: Of the time, for the whole tree before the others, and for its later turns.
_FIRST_SHARE, _WHOLE_SHARE = 0.1, 0.25
#: A tree whose lower end is more than this share of the upper one has other first turns, as long
#: as that much of the time is left.
_PROMISING, _LEFT = 0.5, 0.5
#: Of the time, for secants, which mostly end within a second.
_SECANT_SHARE = 0.1
#: Of what is left, for the first turn of a smaller tree; each of its later ones is twice as long.
_TURN_SHARE = 0.04
#: Of what is left, for the first turn of the search by pixels, where neurons read few pixels and
#: elsewhere; each of its later ones is twice as long, too.
_LOCAL_SHARE, _PIXEL_SHARE = 0.1, 0.02
#: The first distance, as a share of the best, and how near to nothing it may fall.
_DOWN, _LEAST = 0.25, 1e-3
#: Until a smaller tree has closed, the distance in multiples of what others proved, unless that
#: share of the best is more: their lower end says nothing of how far trees reach.
_UNTRIED = 1.5
#: Distances are tried while what stayed open is so much more than what is proved.
_NEAR = 1.05
#: Once a smaller tree did not close at once, steps on the slopes of bounds before each of them: in
#: networks of so many layers, where all neurons' planes take at most so many products.
_CLIMB, _DEEP, _COSTLY = 10, 3, 4e9
#: The next distance, in multiples of what is proved, at most, where each takes such bounds.
_STEP = 1.2
#: Trees of fewer nodes say nothing of how sizes grow.
_COUNTED = 48
#: Why there is no whole tree.
_OTHERS = "tree: the network has other activations than ReLUs"
_LATE = "tree: the time ended before all neurons were bounded"
_LARGE = "tree: too many neurons are undecided within the upper end to compose the network"


@dataclass(eq=False)
class _Stage:
    """A tree within a distance, and the seconds of its next turn."""

    search: SparseSearch
    limit: float
    turn: float


class StagedSearch:
    """One query's trees, grown in turns.

    Args:
        options: the parts; where `staged` is off there is one tree.
        query: on a network of ReLUs and leaky ReLUs.
        budget: of all turns; with a limit of nodes there is one tree.
        incumbent: judges points, and is told what is proved.

    Attributes:
        notes: why there is no tree, once it has begun; for people.
    """

    def __init__(
        self, options: SparseOptions, query: DistanceQuery, budget: Budget, incumbent: Incumbent
    ) -> None:
        self._options, self._query = options, query
        self._budget, self._incumbent = budget, incumbent
        self._whole = SparseSearch(options, query, budget, incumbent)
        self._seconds = budget.remaining
        self._floor = self._whole.least
        self._proved = self._floor
        self._ceiling = math.inf
        self._stages: list[_Stage] = []
        self._pixels: PixelSearch | None = None
        self._pixel_turn = 0.0
        if options.pixels and isinstance(query.objective, L0Distance):
            self._pixels = PixelSearch(query, incumbent)
        self._sizes: list[tuple[float, int]] = []
        self._nodes = 0
        self._young, self._climb, self._closed = True, 0, False
        self.notes: tuple[str, ...] = ()
        self._watch = Stopwatch()

    def clean(self) -> bool:
        """Whether the image itself is a counterexample."""
        return self._whole.clean()

    def begin(self, starts: Sequence[NDArray[np.floating]]) -> None:
        """As `SparseSearch.begin`; where neurons read few pixels, choices of these come first.

        There regions are bounded fast, and the whole network slowly. Before all others there is a
        lower end by secants, where none is known.
        """
        self._first_floor()
        pixels, timely = self._pixels, self._staged and not self._budget.expired
        if timely and pixels is not None and pixels.local:
            self._grow_pixels(self._budget)
        with self._watch.part("whole"):
            self._whole.begin(starts)
        if not self._whole.nodes:
            self.notes = (self._why_none(),)
        self.notes += curved_note(self._options.curved, self._query.objective)

    def _first_floor(self) -> None:
        if self._options.secants and math.isinf(self._options.known) and not self._budget.expired:
            spend = self._budget.within(_SECANT_SHARE * self._budget.remaining)
            with self._watch.part("secants"):
                secant_floor(self._query, spend, prove=self._incumbent.prove)

    def _why_none(self) -> str:
        """Why there is no whole tree."""
        network = self._query.network
        if not all(isinstance(network.nodes[i].op, Relu | LeakyRelu) for i in network.activations):
            return _OTHERS
        return _LATE if self._budget.expired else _LARGE

    def offer(self, point: NDArray[np.floating] | None) -> None:
        """A counterexample that others found; `None` for none."""
        self._whole.offer(point)

    @property
    def nodes(self) -> int:
        """Nodes created, of all trees."""
        counted = self._whole.nodes + (self._pixels.nodes if self._pixels is not None else 0)
        return counted + self._nodes + sum(stage.search.nodes for stage in self._stages)

    @property
    def least(self) -> float:
        """What these trees prove."""
        return max(self._whole.least, self._proved)

    @property
    def paused(self) -> bool:
        """Whether another turn may go on."""
        return not (self._ended or self._budget.expired)

    @property
    def _ended(self) -> bool:
        best = self._incumbent
        if self._whole.closed or self._options.tolerance.closes(best.lower, best.distance):
            return True
        if self._pixels is not None and self._pixels.paused:
            return False
        return not (self._young or self._whole.paused or self._stages or self._radius() is not None)

    def grow(self, turn: Budget | None = None) -> None:
        """Grow trees until the bracket is closed, nothing helps, the budget or this turn ends."""
        turn = turn or self._budget
        if not self._staged:
            self._young = False
            self._whole.grow(turn)
            return
        while not (self._ended or turn.expired):
            if self._young:
                self._grow_whole(turn, _FIRST_SHARE)
                self._young = self._promising()
                if not (self._young or self._ended):
                    self._whole.attack()
                continue
            self._grow_pixels(turn)
            if self._ended:
                return
            if self._hopeful() or not self._grow_stage(turn):
                self._grow_whole(turn, _WHOLE_SHARE)

    @property
    def _staged(self) -> bool:
        """Whether there is more than one tree."""
        return self._options.staged and self._budget.nodes is None

    def _grow_pixels(self, turn: Budget) -> None:
        pixels = self._pixels
        if pixels is None or turn.expired:
            return
        if not self._pixel_turn:
            share = _LOCAL_SHARE if pixels.local else _PIXEL_SHARE
            self._pixel_turn = share * self._budget.remaining
        pixels.grow(turn.within(self._pixel_turn))
        self._pixel_turn *= 2
        self._proved = max(self._proved, pixels.least)

    def _grow_whole(self, turn: Budget, share: float) -> None:
        with self._watch.part("whole"):
            self._whole.grow(turn.within(share * self._budget.remaining))

    def _promising(self) -> bool:
        """Whether the whole tree may close without others: it has come far in its first turns."""
        if not self._whole.paused or self._budget.remaining < _LEFT * self._seconds:
            return False
        far = self._incumbent.distance - self._floor
        return math.isfinite(far) and self._whole.least - self._floor >= _PROMISING * far

    def _hopeful(self) -> bool:
        """Whether the whole tree may end in time, as sizes grow."""
        if len(self._sizes) < 2 or not self._whole.paused:
            return False
        (near, few), (far, many) = self._sizes[-2:]
        rate = math.log(many / few) / (far - near)
        steps = rate * (self._incumbent.distance - far)
        seen = self._whole.nodes
        guess = many * math.exp(min(max(steps, 0.0), 64.0))
        each = self._watch.seconds["whole"] / max(seen, 1)
        return seen < 2 * guess and (guess - seen) * each <= self._budget.remaining

    def _grow_stage(self, turn: Budget) -> bool:
        """A turn of the tree within the least distance; False where there is none."""
        radius = self._radius()
        if radius is not None:
            seconds = _TURN_SHARE * self._budget.remaining
            self._stages.append(_Stage(self._planted(radius), radius, seconds))
        if not self._stages:
            return False
        stage = self._stages[-1]
        stage.search.grow(turn.within(stage.turn))
        if not (stage.search.closed or self._climb) and self._deep():
            self._climb = _CLIMB
        stage.turn *= 2
        self._judge(stage)
        return True

    def _planted(self, radius: float) -> SparseSearch:
        """A tree within a distance."""
        inner = replace(self._options, within=radius, attack=None, quick=False, known=-math.inf)
        options = replace(inner, climb=self._climb)
        search = SparseSearch(options, self._query, self._budget, self._incumbent)
        search.begin(())
        return search

    def _deep(self) -> bool:
        """Whether slopes of many layers' bounds matter, and there is time for them."""
        network = self._query.network
        count = sum(network.nodes[i].size for i in network.activations)
        products = count**2 * network.input_size
        return len(network.activations) >= _DEEP and products <= _COSTLY

    def _judge(self, stage: _Stage) -> None:
        """Keep what a tree showed; drop it where it ended, and those that are of no use."""
        self._proved = max(self._proved, stage.search.least)
        if stage.search.closed:
            self._closed = True
            if stage.search.nodes >= _COUNTED:
                self._sizes.append((stage.limit, stage.search.nodes))
                self._sizes.sort()
        elif not stage.search.paused and not self._budget.expired:
            self._ceiling = min(self._ceiling, stage.limit)
        for other in list(self._stages):
            if other.limit <= self._incumbent.lower or other.limit >= self._ceiling:
                self._stages.remove(other)
                self._nodes += other.search.nodes

    def _radius(self) -> float | None:
        """The next distance, or `None` where those that are open are near to what is proved."""
        floor, low = self._floor, self._incumbent.lower
        top = min([self._incumbent.distance, self._ceiling, *(s.limit for s in self._stages)])
        if math.isinf(top):
            top = self._farthest()
        if low > floor:
            radius = floor + math.sqrt((low - floor) * (top - floor))
        else:
            radius = floor + _DOWN * (top - floor)
        if not (self._closed or self._query.objective.integral):
            radius = min(radius, floor + max(_DOWN * (top - floor), _UNTRIED * (low - floor)))
        if self._climb and low > floor:
            radius = min(radius, floor + _STEP * (low - floor))
        if self._query.objective.integral:
            radius = float(math.floor(radius))
            return radius if low < radius < top else None
        wide = top - floor > _NEAR * (low - floor)
        least = _LEAST * (min(self._incumbent.distance, self._farthest()) - floor)
        return radius if wide and radius - floor > least else None

    def _farthest(self) -> float:
        center = self._query.center
        corner = np.where(center < 1 - center, 1.0, 0.0)
        return max(self._query.objective.attained(center, corner), self._floor)

    def answer(self) -> SparseAnswer:
        """The bracket as it stands."""
        whole = self._whole.answer()
        return replace(whole, staged=self.nodes - self._whole.nodes, notes=self.notes)
