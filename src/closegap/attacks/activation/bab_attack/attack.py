"""BaB-Attack on one query: candidates by gradients, then searches in turn until one succeeds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.bab_attack.arena import Arena, Polish
from closegap.attacks.activation.bab_attack.beam import BeamSearch, OnProof
from closegap.attacks.activation.bab_attack.bottom_up import BottomUp, BottomUpSearch
from closegap.attacks.activation.bab_attack.dive import Dive, DiveSearch
from closegap.attacks.activation.bab_attack.hops import HopSearch, hopped
from closegap.attacks.activation.bab_attack.subprogram import SubProgram
from closegap.attacks.activation.bab_attack.tree import TreeOptions
from closegap.attacks.activation.bab_attack.turns import Search, Turns
from closegap.attacks.activation.harvest import Harvest, OnCandidate
from closegap.attacks.activation.region import region_problem
from closegap.attacks.gradient.hopping import Hopping, hop_pgd
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack
from closegap.attacks.outcome import AttackOutcome
from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.specs.query import Query

__all__ = [
    "BaBAttack",
    "BabAttack",
    "BabAttackOptions",
    "Proofs",
    "bab_attack",
    "beam",
    "dive",
    "lns",
]

_SIZES = ("capacity", "rounds", "workers")
#: What a second of each search counts until it pays, and seconds it owes before its first turn:
#: hops pay early and often, parts of the region where hops and beam are stuck, programs last.
_HOP_PRICE, _PART_PRICE, _PROGRAM_PRICE = 0.5, 2.0, 3.0
_PART_DEBT, _PROGRAM_DEBT = 0.5, 2.0


@dataclass(frozen=True)
class BabAttackOptions:
    """Which searches take part, and their sizes.

    Attributes:
        hopping: how first candidates are found by gradients, and more of them later.
        hops: of a turn of hopping, the one before all others too; 0 for first descents alone, and
            none later.
        capacity: of the pool.
        walks: of the first candidates, so many of the best walk from cell to cell.
        polish: what every find goes through.
        bottom_up: neighbourhoods of candidates; `None` to leave them out.
        programs: searches neighbourhoods too, in turns of their own that are rarer until they pay;
            `None` to leave them out.
        dive: dives from the beam's subdomains, or from the whole region where there is no beam;
            `None` to leave them out.
        beam: the guided tree, one step a turn; `None` to leave it out.
        rounds: turns of all searches, so many times as many as there are searches.
        workers: searches at a time, and solvers' processes; the budget's threads allow no more.

    Raises:
        OptionError: a number is not positive, or no search takes part.
    """

    hopping: Hopping = field(default_factory=Hopping)
    hops: int = 4
    capacity: int = 100
    walks: int = 3
    polish: Polish = field(default_factory=Polish)
    bottom_up: BottomUp | None = field(default_factory=BottomUp)
    programs: SubProgram | None = field(default_factory=SubProgram)
    dive: Dive | None = field(default_factory=Dive)
    beam: TreeOptions | None = field(default_factory=TreeOptions)
    rounds: int = 100
    workers: int = 2

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.hops and self.bottom_up is None and self.dive is None and self.beam is None:
            raise OptionError("no search takes part")

    @property
    def leg(self) -> Hopping:
        """The hopping of one turn."""
        return replace(self.hopping, hops=min(self.hops, self.hopping.hops))


@dataclass(frozen=True)
class Proofs:
    """What the tree may prove on its way.

    Attributes:
        clauses: that are open.
        on_proof: told of a clause and a proved lower bound of its margin.
    """

    clauses: tuple[int, ...]
    on_proof: OnProof | None = None


class BabAttack:
    """Bottom-up and top-down searches around a pool of candidates.

    Args:
        options: see `BabAttackOptions`.
        name: as users write it.
    """

    def __init__(self, options: BabAttackOptions | None = None, name: str = "bab-attack") -> None:
        self.options = BabAttackOptions() if options is None else options
        self.name = name

    def attack_query(
        self,
        query: Query,
        budget: Budget,
        bounds: NetworkBounds | None = None,
        starts: Sequence[NDArray[np.floating]] = (),
        judge: OnCandidate | None = None,
        proofs: Proofs | None = None,
    ) -> AttackOutcome:
        """Attack one query.

        Networks that are not piecewise linear, or too large to be written densely, get the
        gradient runs only.

        Args:
            query: what to break.
            budget: deadline, seed, and how many threads may search.
            bounds: of the activations' inputs over the region, if known.
            starts: candidates that are known already.
            judge: see `Harvest`.
            proofs: which clauses are open, and who hears of those that the tree proves.

        Returns:
            the best candidates, all inside the region.

        Raises:
            AttackInterrupted: Ctrl-C, with what was found until then.
        """
        harvest = Harvest(query, judge)
        if budget.expired or not query.prop.clauses:
            return harvest.ended(self.name, budget)
        with harvest.kept(self.name):
            first = hopped(self.options.leg, query, budget)
            harvest.add(first)
            problem = None if harvest.done else region_problem(query, budget, bounds)
            if problem is not None and problem.units.units:
                arena = Arena(problem, harvest, budget, self.options.capacity, self.options.polish)
                arena.add(first)
                for point in starts:
                    arena.offer(point.reshape(1, -1).astype(np.float64))
                _search(
                    self.options, arena, first, proofs or Proofs(tuple(range(query.prop.clauses)))
                )
        return harvest.ended(self.name, budget)


def _search(options: BabAttackOptions, arena: Arena, first: AttackOutcome, proofs: Proofs) -> None:
    """Walk from the best candidates, then let the workers take steps of the searches in turn."""
    for start in arena.starts(options.walks):
        if not arena.done:
            arena.walk(start.point)
    searches = _searches(options, arena, first, proofs)
    turns = Turns(searches, lambda: arena.margin, options.rounds * len(searches))

    def work() -> None:
        while not arena.done and turns.take():
            pass

    workers = min(options.workers, arena.budget.threads)
    if workers == 1:
        work()
        return
    with ThreadPoolExecutor(workers) as team:
        try:
            for waiting in [team.submit(work) for _ in range(workers)]:
                waiting.result()
        finally:
            arena.finished = True  # whatever ended one of them, the others stop too


def _searches(
    options: BabAttackOptions, arena: Arena, first: AttackOutcome, proofs: Proofs
) -> list[Search]:
    """Those that take part; cheap ones first."""
    searches, top_down = [], None
    if options.hops:
        searches.append(Search(HopSearch(options.leg, arena, first).step, _HOP_PRICE))
    if options.beam is not None:
        top_down = BeamSearch(options.beam, arena, proofs.clauses, proofs.on_proof)
        searches.append(Search(top_down.step))
    if options.bottom_up is not None:
        searches.append(_neighbourhoods(options.bottom_up, arena, _PART_PRICE, _PART_DEBT))
    if options.dive is not None:
        dives = DiveSearch(options.dive, arena, None if top_down is None else top_down.domain)
        searches.append(Search(dives.step, _PART_PRICE, cost=_PART_PRICE * _PART_DEBT))
    if options.bottom_up is not None and options.programs is not None:
        solved = replace(options.bottom_up, program=options.programs)
        searches.append(_neighbourhoods(solved, arena, _PROGRAM_PRICE, _PROGRAM_DEBT))
    return searches


def _neighbourhoods(options: BottomUp, arena: Arena, price: float, debt: float = 0.0) -> Search:
    search = BottomUpSearch(options, arena)
    return Search(search.step, price, lambda: search.exhausted, price * debt)


def bab_attack(options: AttackOptions) -> BabAttack:
    """The attack, with a user's sizes: `steps` and `restarts` of the hopping."""
    return BabAttack(BabAttackOptions(hopping=hop_pgd(options)))


def lns(options: AttackOptions) -> BabAttack:
    """Neighbourhoods only."""
    return _variant("lns", BabAttackOptions(dive=None, beam=None, hopping=hop_pgd(options)))


def dive(options: AttackOptions) -> BabAttack:
    """Dives from the whole region only."""
    return _variant("dive", BabAttackOptions(bottom_up=None, beam=None, hopping=hop_pgd(options)))


def beam(options: AttackOptions) -> BabAttack:
    """The guided tree only; complete, if it is given the time."""
    alone = BabAttackOptions(bottom_up=None, dive=None, rounds=10_000, hopping=hop_pgd(options))
    return _variant("beam", alone)


def _variant(name: str, options: BabAttackOptions) -> BabAttack:
    return BabAttack(replace(options, hops=0), name)


#: `BaBAttack(net, eps=0.3)(images, labels)`: adversarial images.
BaBAttack = ImageAttack(bab_attack)
