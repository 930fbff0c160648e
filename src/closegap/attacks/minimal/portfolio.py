"""Near counterexamples by several attacks of least distance: starts for walks and for trees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.registry import make_minimal
from closegap.attacks.minimal.successive import SuccessivePrograms
from closegap.core.budget import Budget
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Objective

__all__ = ["Entry", "Portfolio", "portfolio"]

#: Of the time that is left, what one attack may take.
_SHARE = 0.5
#: Of the time, for all attacks where programs follow: these gain more.
_BEFORE_PROGRAMS = 0.3
#: Broken points that successive programs go on from.
_FROM = 2


@dataclass(frozen=True)
class Entry:
    """An attack, with its sizes.

    Attributes:
        name: in the registry.
        norm: 0 (pixels), 1, 2 or infinity.
        steps: the attack's own count; its default if `None`.
        restarts: lanes; beyond one for each class they begin at random changes of the image.
    """

    name: str
    norm: float
    steps: int | None
    restarts: int


_SPARSE = (
    Entry("sparsefool", 1.0, 20, 9),
    Entry("fmn", 1.0, 300, 4),
    Entry("deepfool", 1.0, 50, 9),
)
#: By norm; 0 counts pixels.
_BY_NORM: dict[float, tuple[Entry, ...]] = {
    1.0: _SPARSE,
    0.0: (
        Entry("sparsefool", 0.0, 20, 9),
        Entry("sigma-zero", 0.0, 300, 12),
        Entry("fmn", 0.0, 300, 4),
    ),
    2.0: (Entry("deepfool", 2.0, 50, 9), Entry("fmn", 2.0, 300, 4)),
    math.inf: (Entry("deepfool", math.inf, 50, 9), Entry("fmn", math.inf, 300, 4)),
}


@dataclass(frozen=True)
class Portfolio:
    """Attacks in order, and what goes on from their points.

    Attributes:
        entries: in three sizes, each with half of the time that is left.
        programs: successive linear programs of the distance itself; `None` for norms, whose
            attacks know what they minimise.
    """

    entries: tuple[Entry, ...]
    programs: SuccessivePrograms | None = None

    def starts(self, query: DistanceQuery, budget: Budget, judge: OnNearer) -> tuple[Nearest, ...]:
        """What each attack found that counts, nearest first by the query's own distance.

        Args:
            query: whose counterexamples.
            budget: deadline and seed.
            judge: says of a float32 point and its distance whether it counts.
        """
        found: list[Nearest] = []
        share = 1.0 if self.programs is None else _BEFORE_PROGRAMS
        spend = budget.within(share * budget.remaining)
        for entry in self._in_order():
            if spend.expired:
                break
            sizes = AttackOptions(entry.steps, entry.restarts)
            attack = make_minimal(entry.name, sizes, entry.norm)
            found.append(attack.run(query, spend.within(_SHARE * spend.remaining), judge))
        if self.programs is not None and not budget.expired:
            ranked = sorted((n for n in found if n.found), key=lambda n: n.distance)
            from_ = [n.point for n in ranked[:_FROM] if n.point is not None]
            found.append(self.programs.run(query, budget, judge, from_))
        return tuple(sorted((n for n in found if n.found), key=lambda n: n.distance))

    def _in_order(self) -> Iterator[Entry]:
        """Every attack with one lane, then as it runs by itself, then with all lanes.

        Steps that the clock cuts short come to little, so the quick runs are first.
        """
        for short in (True, False):
            for entry in self.entries:
                yield replace(entry, steps=entry.steps if short else None, restarts=1)
        yield from self.entries


def portfolio(objective: Objective) -> Portfolio:
    """The attacks for a distance: of its own norm; of l1 and programs, where it is none."""
    if objective.integral:
        return Portfolio(_BY_NORM[0.0])
    if objective.norm is None:
        return Portfolio(_SPARSE, SuccessivePrograms())
    return Portfolio(_BY_NORM[objective.norm])
