"""Bottom-up search: most of a good candidate's phases stay, a neighbourhood of them is free."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Int8

from closegap.attacks.activation.bab_attack.arena import Arena, Start
from closegap.attacks.activation.bab_attack.fixing import Fixing, UnitBounds, implied, unit_bounds
from closegap.attacks.activation.bab_attack.subprogram import SubProgram
from closegap.attacks.activation.cells import Cell
from closegap.mip.model import Status

__all__ = ["BottomUp", "BottomUpSearch", "SubSearch", "drawn_order", "shared_inputs"]

#: Free units that are implied are made up for, so many times.
_REFILLS = 2
#: Weights below this share of a unit's largest are no reading.
_FAINT = 0.05
_SOLVED = (Status.OPTIMAL, Status.BOUND_REACHED)


@runtime_checkable
class SubSearch(Protocol):
    """Searches a part of the region."""

    def search(self, arena: Arena, part: Fixing, bounds: UnitBounds) -> Status:
        """Lower the clause's margin in the part; finds go to the arena."""
        ...


@dataclass(frozen=True)
class BottomUp:
    """Sizes of neighbourhoods.

    Attributes:
        first: undecided units of the first neighbourhood.
        least: of any.
        most: of any.
        grow: the next one after a solved one is larger by this factor.
        shrink: the next one after one that took all its time.
        candidates: of the pool, the centers of neighbourhoods.
        disagreement: how much the pool's disagreement counts against chance; 0 is chance alone.
        sharing: how much the inputs that a unit shares with a drawn one count in every other pair
            of neighbourhoods; 0 leaves these out.
        program: searches a neighbourhood.
    """

    first: int = 60
    least: int = 10
    most: int = 400
    grow: float = 1.3
    shrink: float = 0.75
    candidates: int = 6
    disagreement: float = 10.0
    sharing: float = 6.0
    program: SubSearch = field(default_factory=SubProgram)


class BottomUpSearch:
    """Neighbourhoods one after the other, each around one of the best candidates.

    Args:
        options: see `BottomUp`.
        arena: of the attack.
    """

    def __init__(self, options: BottomUp, arena: Arena) -> None:
        self._options = options
        self._arena = arena
        self._known = unit_bounds(arena.problem)
        self._size = [float(options.first)] * 2  # by disagreement alone, and around a unit
        self._turn = 0
        self._closed: set[int] = set()
        self._lock = threading.Lock()

    @property
    def exhausted(self) -> bool:
        """True iff the whole region was searched for every clause, in the solver's belief."""
        return len(self._closed) == len(self._arena.problem.goals)

    def step(self) -> None:
        """Search one neighbourhood."""
        arena, options = self._arena, self._options
        starts = arena.starts(options.candidates)
        if not starts or self.exhausted:
            return
        with self._lock:
            start = starts[_rank(self._turn) % len(starts)]
            around = int(options.sharing > 0 and self._turn // 2 % 2)
            size = round(self._size[around])
            self._turn += 1
        start, random = self._open(start), arena.random()
        order = self._around(start, random) if around else self._drawn(random)
        part, bounds = self._neighbourhood(start, size, order)
        status = options.program.search(arena, part, bounds)
        if not arena.done:
            self._adapt(around, status)
            self._close(part, status)

    def _drawn(self, random: np.random.Generator) -> Int[np.ndarray, "U"]:
        """Units that the pool disagrees on first."""
        return drawn_order(self._arena, -self._options.disagreement, random)

    def _around(self, start: Start, random: np.random.Generator) -> Int[np.ndarray, "U"]:
        """Units that share inputs with one of them first; its odds are as in `_drawn`.

        An input moves only as far as the fixed units that read it let it: scattered units leave
        every input held by others, units that read the same inputs set these free.
        """
        odds = -self._options.disagreement * self._arena.pool.commonness()
        middle = int(np.argmax(random.gumbel(size=len(odds)) + odds))
        overlap = shared_inputs(self._arena.problem.units.cell(start.pattern), middle)
        return np.argsort(-(random.gumbel(size=len(odds)) + self._options.sharing * overlap))

    def _open(self, start: Start) -> Start:
        """The start, against the nearest clause whose whole region was not searched yet."""
        if start.clause not in self._closed:
            return start
        margins = self._arena.problem.margins(start.point)
        margins[list(self._closed)] = np.inf
        clause = int(np.argmin(margins))
        return replace(start, clause=clause, margin=float(margins[clause]))

    def _close(self, part: Fixing, status: Status) -> None:
        """A program over the whole region that was solved leaves nothing of its clause."""
        if part.phase.any() or status not in _SOLVED:
            return
        with self._lock:
            self._closed.add(part.clause)

    def _neighbourhood(
        self, start: Start, size: int, order: Int[np.ndarray, "U"]
    ) -> tuple[Fixing, UnitBounds]:
        """Free units in this order, until so many of them are undecided."""
        own = np.where(start.pattern, 1, -1).astype(np.int8)
        count = size
        for _ in range(_REFILLS):
            phase = self._freed(own, order[:count])
            bounds = implied(self._arena.problem, self._known, phase)
            undecided = int((bounds.undecided & (phase == 0)).sum())
            if undecided >= size or count >= len(order):
                break
            count = min(len(order), max(count + 1, count * size // max(1, undecided)))
        return Fixing(start.clause, phase, start.margin, start.point), bounds

    def _freed(
        self, own: Int8[np.ndarray, "U"], free: Int[np.ndarray, "F"]
    ) -> Int8[np.ndarray, "U"]:
        phase = own.copy()
        phase[free] = 0
        return phase

    def _adapt(self, around: int, status: Status) -> None:
        options, size = self._options, self._size
        with self._lock:
            if status in _SOLVED:
                size[around] *= options.grow
            elif status is Status.TIME:
                size[around] *= options.shrink
            size[around] = min(max(size[around], options.least), options.most)


def drawn_order(
    arena: Arena, agreement: float, random: np.random.Generator
) -> Int[np.ndarray, "U"]:
    """All units in the order of a draw without replacement.

    A unit's odds are `exp(agreement * commonness)`, so those the pool agrees on come early, or
    late where `agreement` is negative. Gumbel noise on the odds' logarithms sorts them so.
    """
    commonness = arena.pool.commonness()
    keys = random.gumbel(size=len(commonness)) + agreement * commonness
    return np.argsort(-keys)


def shared_inputs(cell: Cell, middle: int) -> Float[np.ndarray, "U"]:
    """Of each unit's weights in a cell, the share on the inputs that unit `middle` reads there.

    Inputs with little of the largest weight do not count; a unit that reads nothing shares nothing.
    """
    size = np.abs(cell.rows)
    read = size[middle] > _FAINT * size[middle].max(initial=0.0)
    total = size.sum(axis=1)
    return np.asarray(size[:, read].sum(axis=1) / np.where(total > 0, total, 1.0))


def _rank(turn: int) -> int:
    """0, 1, 0, 2, 0, 1, 0, 3, ...: the best candidate every other time."""
    rank = 0
    while turn % 2:
        turn, rank = turn // 2, rank + 1
    return rank
