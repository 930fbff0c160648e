"""Near counterexamples by several attacks of least distance: starts for walks and for trees."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from closegap.attacks.activation.nearest import Nearest, OnNearer
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.attack import MinimalAttack
from closegap.attacks.minimal.fitting import fitted
from closegap.attacks.minimal.registry import make_minimal
from closegap.attacks.minimal.successive import SuccessivePrograms
from closegap.core.budget import Budget
from closegap.specs.distance import DistanceQuery
from closegap.specs.objectives import Objective

__all__ = ["Entry", "Portfolio", "portfolio", "shortest"]

#: Of short times, seconds for published attacks, and their share at most: steps cut short come to
#: little.
_SECONDS, _MOST = 5.0, 0.55
#: Of the time that is left, what an attack may take that does not fit into it with all its steps.
_SHARE = 0.5
#: The same of attacks with many lanes: what the first finds the others seldom do.
_LANES_SHARE = 0.8
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


#: By norm (0 counts pixels), attacks as they run by themselves. Those that mostly come nearest for
#: their time are first: where time is short, the later ones have fewer steps.
_PUBLISHED: dict[float, tuple[Entry, ...]] = {
    0.0: (
        Entry("sigma-zero", 0.0, None, 1),
        Entry("fmn", 0.0, None, 1),
        Entry("sparsefool", 0.0, None, 1),
    ),
    1.0: (
        Entry("fmn", 1.0, None, 1),
        Entry("deepfool", 1.0, None, 1),
        Entry("sparsefool", 1.0, None, 1),
        Entry("fab-nearest", 1.0, None, 10),
        Entry("ead", 1.0, None, 1),
    ),
    2.0: (
        Entry("fmn", 2.0, None, 1),
        Entry("deepfool", 2.0, None, 1),
        Entry("fab-nearest", 2.0, None, 10),
        Entry("cw", 2.0, None, 1),
    ),
    math.inf: (
        Entry("fmn", math.inf, None, 1),
        Entry("deepfool", math.inf, None, 1),
        Entry("fab-nearest", math.inf, None, 10),
    ),
}
#: By norm, attacks on each class, and from random changes of the image.
_SEVERAL: dict[float, tuple[Entry, ...]] = {
    0.0: (
        Entry("sparsefool", 0.0, 20, 9),
        Entry("sigma-zero", 0.0, 300, 12),
        Entry("fmn", 0.0, 300, 4),
    ),
    1.0: (
        Entry("fmn", 1.0, 300, 20),
        Entry("deepfool", 1.0, 50, 9),
        Entry("sparsefool", 1.0, 20, 9),
    ),
    2.0: (Entry("deepfool", 2.0, 50, 9), Entry("fmn", 2.0, 300, 4)),
    math.inf: (Entry("deepfool", math.inf, 50, 9), Entry("fmn", math.inf, 300, 4)),
}

#: By norm, attacks whose answer is much a matter of luck, for other random numbers.
_AGAIN: dict[float, tuple[Entry, ...]] = {
    0.0: (Entry("sigma-zero", 0.0, None, 1), Entry("sigma-zero", 0.0, None, 4)),
    1.0: (Entry("fmn", 1.0, 300, 20),),
}


@dataclass(frozen=True)
class Portfolio:
    """Attacks in order, and what goes on from their points.

    Attributes:
        published: attacks as they run by themselves, with fewer steps where time is short.
        several: attacks with many lanes.
        again: to be asked once more, with other random numbers.
        programs: successive linear programs of the distance itself; `None` for norms, whose
            attacks know what they minimise.
    """

    published: tuple[Entry, ...]
    several: tuple[Entry, ...]
    again: tuple[Entry, ...] = ()
    programs: SuccessivePrograms | None = None

    def first(
        self, query: DistanceQuery, budget: Budget, judge: OnNearer, limit: Budget
    ) -> tuple[tuple[Nearest, ...], tuple[Entry, ...]]:
        """What the published attacks found that counts; with fewer steps where time is short.

        And those that had fewer steps, or none.

        Args:
            query: whose counterexamples.
            budget: of them together, and the seed.
            judge: says of a float32 point and its distance whether it counts.
            limit: where attacks end that took longer than they promised.
        """
        found, cut = [], []
        for entry in self.published:
            attack = _attack(entry, query, budget, _SHARE)
            if attack is None or attack.method.steps < _steps(entry):
                cut.append(entry)
            if attack is not None:
                found.append(attack.run(query, limit, judge))
        return _sorted(found), tuple(cut)

    def starts(
        self,
        query: DistanceQuery,
        budget: Budget,
        judge: OnNearer,
        known: Sequence[Nearest] = (),
    ) -> tuple[Nearest, ...]:
        """What attacks with many lanes found, and what was known.

        Args:
            query: whose counterexamples.
            budget: deadline and seed.
            judge: says of a float32 point and its distance whether it counts.
            known: counterexamples.

        Returns:
            what counts, nearest first by the query's own distance.
        """
        share = 1.0 if self.programs is None else _BEFORE_PROGRAMS
        spend, entries = budget.within(share * budget.remaining), self.several
        each = [_run(entry, query, spend, judge, _LANES_SHARE) for entry in entries]
        found = _sorted([*known, *each])
        if self.programs is None or budget.expired:
            return found
        from_ = [n.point for n in found[:_FROM] if n.point is not None]
        return _sorted([*found, self.programs.run(query, budget, judge, from_)])

    def whole(
        self, entries: Sequence[Entry], query: DistanceQuery, budget: Budget, judge: OnNearer
    ) -> tuple[Nearest, ...]:
        """What attacks found that counts, of those that fit into the time with all their steps.

        Args:
            entries: which.
            query: whose counterexamples.
            budget: of them together, and the seed.
            judge: says of a float32 point and its distance whether it counts.
        """
        return _sorted(_run(entry, query, budget, judge, 0.0) for entry in entries)


def _attack(
    entry: Entry, query: DistanceQuery, budget: Budget, share: float
) -> MinimalAttack | None:
    """With as many steps as fit; `None` where these are too few."""
    if budget.expired:
        return None
    sizes = AttackOptions(entry.steps, entry.restarts)
    return fitted(entry.name, sizes, entry.norm, query, budget, share=share)


def _steps(entry: Entry) -> int:
    sizes = AttackOptions(entry.steps, entry.restarts)
    return make_minimal(entry.name, sizes, entry.norm).method.steps


def _run(
    entry: Entry,
    query: DistanceQuery,
    budget: Budget,
    judge: OnNearer,
    share: float,
) -> Nearest:
    """What an attack finds with as many steps as fit, for a share of the time where not all do."""
    attack = _attack(entry, query, budget, share)
    return Nearest() if attack is None else attack.run(query, budget, judge)


def _sorted(found: Iterable[Nearest]) -> tuple[Nearest, ...]:
    return tuple(sorted((n for n in found if n.found), key=lambda n: n.distance))


def portfolio(objective: Objective) -> Portfolio:
    """The attacks for a distance: of its own norm; of l1 and programs, where it is none."""
    if objective.integral:
        return Portfolio(_PUBLISHED[0.0], _SEVERAL[0.0], _AGAIN[0.0])
    if objective.norm is None:
        return Portfolio((), _SEVERAL[1.0], programs=SuccessivePrograms())
    norm = objective.norm
    return Portfolio(_PUBLISHED[norm], _SEVERAL[norm], _AGAIN.get(norm, ()))


def shortest(seconds: float) -> float:
    """What the published attacks get of so much time at least."""
    return min(_SECONDS, _MOST * seconds)
