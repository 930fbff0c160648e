"""Branch and cut on one clause: the open program with the least bound is split at a phase.

Every bound is computed from duals (`mip.certify`), so a closed tree is a proof that trusts no
solver. The search asks for points with a margin of zero or less; phases that all such points share
are fixed on the way, so what is proved is that there is none, and the least margin is at least
`min(0, least bound of an open program)`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.numerics import CUT_VIOLATION
from closegap.verify.cutting.program import CutProgram, Rows
from closegap.verify.cutting.relaxation import CutOptions, Fixings, Relaxation, Solved

__all__ = ["CutSearch", "SearchOptions"]

#: Judges an input, flat; True stops the search.
Offer = Callable[[NDArray[np.float64]], bool]

#: Weight of the child that gains less, of the other one the rest.
_WORSE = 5.0 / 6.0


@dataclass(frozen=True)
class SearchOptions:
    """How to search.

    Attributes:
        cut: see `CutOptions`.
        tried: units whose children are bounded before one of them is chosen.
        reliable: a unit whose gains were seen so often on both sides is not tried again.
        node_cuts: cuts that one node may add.
        most_cuts: idle cuts are dropped beyond this many.
    """

    cut: CutOptions = field(default_factory=CutOptions)
    tried: int = 6
    reliable: int = 4
    node_cuts: int = 12
    most_cuts: int = 250


@dataclass(frozen=True, order=True)
class _Node:
    lower: float
    number: int
    fixings: Fixings = field(compare=False)


class _Gains:
    """What fixing each unit gained so far, by side: `[2, U]`, off first."""

    def __init__(self, units: int) -> None:
        self._sum = np.zeros((2, units))
        self.seen = np.zeros((2, units), dtype=np.int64)

    def learn(self, unit: int, on: bool, gain: float) -> None:
        if math.isfinite(gain):
            self._sum[int(on), unit] += max(gain, 0.0)
            self.seen[int(on), unit] += 1

    def scores(self, guess: Float[np.ndarray, "U"]) -> Float[np.ndarray, "U"]:
        mean = self._sum / np.maximum(self.seen, 1)
        sides = np.where(self.seen > 0, mean, guess)
        worse, better = np.maximum(sides.min(axis=0), 0), np.maximum(sides.max(axis=0), 0)
        return np.asarray(_WORSE * worse + (1 - _WORSE) * better)


class CutSearch:
    """One clause.

    Args:
        program: without cuts.
        options: how to search.
        offer: judges the inputs of solutions.
        stopped: polled between programs.

    Attributes:
        nodes: programs that were nodes.
        program: see the arguments.
        rows: what the root's duals say of each ReLU; `None` where they say nothing.
    """

    def __init__(
        self,
        program: CutProgram,
        options: SearchOptions,
        offer: Offer,
        stopped: Callable[[], bool],
    ) -> None:
        self.program = program
        self._options = options
        self._offer = offer
        self._stopped = stopped
        self._relaxation = Relaxation(program)
        self._gains = _Gains(program.layout.units)
        self._open: list[_Node] = []
        self._tried: dict[tuple[int, bool], float] = {}
        self._parent: object | None = None
        self._stuck = math.inf
        self._broken = False
        self.nodes = 0
        self.rows: Rows | None = None

    @property
    def lower(self) -> float:
        """Proved lower bound of the margin; infinity when it is positive everywhere."""
        least = min(self._stuck, self._open[0].lower if self._open else math.inf)
        return least if least > 0 else min(least, 0.0)

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return not self._open or self._broken

    def root(self, budget: Budget) -> bool:
        """Rounds of cuts, and the phases that they imply; False where no program was solved."""
        options, seen = self._options.cut, [-math.inf]
        self._open = [_Node(-math.inf, 0, Fixings.none())]
        solved = self._relaxation.solve(Fixings.none(), budget)
        rooted, best, begun = solved, solved.lower, solved.point is not None
        for _ in range(options.rounds):
            seen.append(best)
            if best > 0 or solved.point is None or self._expired(budget) or self._stalled(seen):
                break
            if not self._relaxation.cut(solved.point):
                break
            solved = self._relaxation.solve(Fixings.none(), budget, options.seconds)
            rooted, best = rooted if solved.duals is None else solved, max(best, solved.lower)
        self.rows = None if best > 0 else self._relaxation.rows(rooted)
        self._enter(best, solved)
        return begun or best > 0

    def _enter(self, best: float, solved: Solved) -> None:
        self.nodes = 1
        self._open = []
        if best > 0:
            return
        self._tell(solved)
        if solved.point is not None:
            implied = self._relaxation.implied(solved)
            self._relaxation.restrict(implied)
            self._relaxation.drop_idle(2)
        self._push(best, Fixings.none())

    def _stalled(self, seen: list[float]) -> bool:
        window = self._options.cut.window
        if len(seen) <= window + 1:
            return False
        return seen[-1] - seen[-1 - window] < self._options.cut.stall * -seen[-1]

    def run(self, budget: Budget) -> None:
        """Split until nothing is open, an input breaks the property, or time is up."""
        while self._open and not (self._broken or self._expired(budget)):
            node, replaced = heapq.heappop(self._open), False
            try:
                replaced = self._visit(node, budget)
            finally:  # a later turn goes on with this tree, whatever went wrong in this one
                if not replaced:
                    heapq.heappush(self._open, node)
            if self._relaxation.cuts > self._options.most_cuts:
                self._relaxation.drop_idle()

    def _visit(self, node: _Node, budget: Budget) -> bool:
        """Replace an open node by its children; False where time came first."""
        solved = self._bounded(node, budget)
        if solved.lower > 0:
            return True
        if solved.point is None:
            return self._give_up(node.lower, budget)
        self._tell(solved)
        self._parent = self._relaxation.basis()
        unit = self._choose(node, solved, budget)
        lower = max(node.lower, solved.lower)
        if unit is None:
            return self._give_up(lower, budget)
        if self._expired(budget):
            return False
        for on in (False, True):
            found = self._tried.get((unit, on))
            if found is None:
                found = self._child(node, unit, on, solved, budget)
            if max(lower, found) <= 0:
                self._push(max(lower, found), node.fixings.also(unit, on))
        return True

    def _give_up(self, lower: float, budget: Budget) -> bool:
        """Nothing can be split, or the solver has no answer: the bound stays as it is.

        Returns:
            False where time came first: the node stays open.
        """
        if self._expired(budget):
            return False
        self._stuck = min(self._stuck, lower)
        return True

    def _bounded(self, node: _Node, budget: Budget) -> Solved:
        """The node's program, with some more cuts."""
        solved = self._relaxation.solve(node.fixings, budget)
        if solved.point is None or solved.lower > 0:
            return solved
        if self._relaxation.cut(solved.point, self._options.node_cuts):
            again = self._relaxation.solve(node.fixings, budget)
            return again if again.lower >= solved.lower else solved
        return solved

    def _child(self, node: _Node, unit: int, on: bool, solved: Solved, budget: Budget) -> float:
        """Bound one child, and learn what the phase was worth."""
        fixings = node.fixings.also(unit, on)
        child = self._relaxation.solve(fixings, budget, start=self._parent)
        self.nodes += 1
        self._gains.learn(unit, on, min(child.lower, 0.0) - solved.lower)
        return child.lower

    def _choose(self, node: _Node, solved: Solved, budget: Budget) -> int | None:
        """The unit whose phase to fix; `None` where every one is fixed."""
        guess = self._guess(solved)
        guess[node.fixings.units] = -1.0
        free = guess >= 0
        fixed = self._relaxation.fixed_phases
        free &= ~fixed
        self._tried.clear()
        if not free.any():
            return None
        scores = np.where(free, self._gains.scores(guess), -1.0)
        ranked = np.argsort(-scores, kind="stable")[: self._options.tried]
        for unit in ranked[scores[ranked] >= 0]:
            self._try(node, int(unit), solved, budget)
        scores = np.where(free, self._gains.scores(guess), -1.0)
        return int(np.argmax(scores))

    def _guess(self, solved: Solved) -> Float[np.ndarray, "U"]:
        """How much each unit's phase matters: what its row is worth times how far it is off."""
        assert solved.point is not None and solved.duals is not None
        layout = self.program.layout
        both = np.minimum(solved.point[layout.positive], solved.point[layout.negative])
        return np.asarray(both * (CUT_VIOLATION + np.abs(solved.duals[: layout.units])))

    def _try(self, node: _Node, unit: int, solved: Solved, budget: Budget) -> None:
        """Bound both children of a unit that is not known well yet."""
        if self._gains.seen[:, unit].min() >= self._options.reliable or self._expired(budget):
            return
        for on in (False, True):
            self._tried[unit, on] = self._child(node, unit, on, solved, budget)

    def _push(self, lower: float, fixings: Fixings) -> None:
        heapq.heappush(self._open, _Node(lower, self.nodes, fixings))

    def _tell(self, solved: Solved) -> None:
        if solved.point is not None:
            self._broken = self._offer(self.program.input_of(solved.point)) or self._broken

    def _expired(self, budget: Budget) -> bool:
        return budget.expired or self._stopped()
