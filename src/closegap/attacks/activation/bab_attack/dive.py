"""Top-down dives: phases that most of the pool agrees on are fixed, until enough of them are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Int, Int8

from closegap.attacks.activation.bab_attack.arena import Arena
from closegap.attacks.activation.bab_attack.bottom_up import SubSearch, drawn_order
from closegap.attacks.activation.bab_attack.fixing import Fixing, UnitBounds, implied, unit_bounds
from closegap.attacks.activation.bab_attack.subprogram import SubProgram
from closegap.mip.model import Status

__all__ = ["Dive", "DiveSearch", "Domain", "DomainSource"]

#: A clause, and the phases of a subdomain of it: +1, -1, 0 free.
Domain: TypeAlias = tuple[int, Int8[np.ndarray, "U"]]
#: The next subdomain to dive from, or `None` for the whole region.
DomainSource: TypeAlias = Callable[[], "Domain | None"]


@dataclass(frozen=True)
class Dive:
    """How far dives go.

    Attributes:
        ratio: of the units, fixed in the first dive.
        most: units that a dive leaves undecided, whatever the ratio.
        change: of the ratio: less after an empty part, more after one that took all its time.
        agreement: how much the pool's agreement counts against chance in choosing units.
        chunks: what is fixed is propagated so many times on the way down.
        program: searches the part a dive ends in.
    """

    ratio: float = 0.5
    most: int = 150
    change: float = 0.1
    agreement: float = 10.0
    chunks: int = 4
    program: SubSearch = field(default_factory=SubProgram)


class DiveSearch:
    """Dives one after the other.

    Args:
        options: see `Dive`.
        arena: of the attack.
        source: subdomains to dive from.
    """

    def __init__(self, options: Dive, arena: Arena, source: DomainSource | None = None) -> None:
        self._options = options
        self._arena = arena
        self._source = source
        self._known = unit_bounds(arena.problem)
        self._ratio = options.ratio
        self._lock = threading.Lock()

    @property
    def ratio(self) -> float:
        """Of the units, fixed in the next dive."""
        return self._ratio

    def step(self) -> None:
        """Dive once, and search where it ends."""
        arena = self._arena
        starts = arena.starts(1)
        if not starts:
            return
        domain = None if self._source is None else self._source()
        clause, phase = domain or (starts[0].clause, np.zeros(len(self._known.lower), np.int8))
        phase, bounds = self._fixed(phase, arena.random())
        margin = starts[0].margin if starts[0].clause == clause else np.inf
        status = self._options.program.search(arena, Fixing(clause, phase, margin), bounds)
        self._adapt(status)

    def _fixed(
        self, phase: Int8[np.ndarray, "U"], random: np.random.Generator
    ) -> tuple[Int8[np.ndarray, "U"], UnitBounds]:
        """Fix common phases in chunks; units that what is fixed implies are passed over."""
        problem, options = self._arena.problem, self._options
        majority = np.where(self._arena.pool.majority(), 1, -1).astype(np.int8)
        order = drawn_order(self._arena, options.agreement, random)
        count = max(round(self._ratio * len(phase)), len(phase) - options.most)
        bounds = implied(problem, self._known, phase)
        for chunk in range(options.chunks):
            wanted = count * (chunk + 1) // options.chunks
            taken = self._next(order, phase, bounds, wanted)
            if len(taken):
                phase = phase.copy()
                phase[taken] = majority[taken]
                bounds = implied(problem, self._known, phase)
        return phase, bounds

    def _next(
        self,
        order: Int[np.ndarray, "U"],
        phase: Int8[np.ndarray, "U"],
        bounds: UnitBounds,
        wanted: int,
    ) -> Int[np.ndarray, "F"]:
        """The first undecided units of the order, until `wanted` units are decided or fixed."""
        loose = (phase == 0) & bounds.undecided
        settled = int((~loose).sum())
        return np.asarray(order[loose[order]][: max(0, wanted - settled)])

    def _adapt(self, status: Status) -> None:
        step = {Status.INFEASIBLE: -1.0, Status.TIME: 1.0}.get(status, 0.0) * self._options.change
        with self._lock:
            self._ratio = min(max(self._ratio + step, 0.0), 1.0)
