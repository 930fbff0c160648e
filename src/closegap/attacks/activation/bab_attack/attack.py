"""BaB-Attack on one query: candidates by gradients, then searches in turn until one succeeds."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.bab_attack.arena import Arena, Polish
from closegap.attacks.activation.bab_attack.beam import BeamSearch, OnProof, Shared
from closegap.attacks.activation.bab_attack.bottom_up import BottomUp, BottomUpSearch
from closegap.attacks.activation.bab_attack.dive import Dive, DiveSearch
from closegap.attacks.activation.bab_attack.hops import HopSearch, hopped
from closegap.attacks.activation.bab_attack.tree import TreeOptions
from closegap.attacks.activation.harvest import Harvest, OnCandidate, harvested
from closegap.attacks.activation.region import UNSUITED, region_problem
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

Step: TypeAlias = Callable[[], None]

_SIZES = ("capacity", "neighbourhoods", "dives", "rounds", "workers")


@dataclass(frozen=True)
class BabAttackOptions:
    """Which searches take part, and their sizes.

    Attributes:
        hopping: how first candidates are found by gradients, and more of them later.
        hops: hoppings in a round.
        capacity: of the pool.
        walks: of the first candidates, so many of the best walk from cell to cell.
        polish: what every find goes through.
        bottom_up: neighbourhoods of candidates; `None` to leave them out.
        neighbourhoods: in a round.
        dive: dives from the beam's subdomains, or from the whole region where there is no beam;
            `None` to leave them out.
        dives: in a round.
        beam: the guided tree, one step a round; `None` to leave it out.
        rounds: of all searches.
        workers: searches at a time, and solvers' processes; the budget's threads allow no more.

    Raises:
        OptionError: a number is not positive, or no search takes part.
    """

    hopping: Hopping = field(default_factory=Hopping)
    hops: int = 1
    capacity: int = 100
    walks: int = 3
    polish: Polish = field(default_factory=Polish)
    bottom_up: BottomUp | None = field(default_factory=BottomUp)
    neighbourhoods: int = 3
    dive: Dive | None = field(default_factory=Dive)
    dives: int = 1
    beam: TreeOptions | None = field(default_factory=TreeOptions)
    rounds: int = 100
    workers: int = 2

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.hops and self.bottom_up is None and self.dive is None and self.beam is None:
            raise OptionError("no search takes part")


@dataclass(frozen=True)
class Proofs:
    """What the tree may prove on its way.

    Attributes:
        clauses: that are open.
        on_proof: told of a clause and a proved lower bound of its margin.
        shared: the tree that others grow too; see `BeamSearch`.
    """

    clauses: tuple[int, ...]
    on_proof: OnProof | None = None
    shared: Shared | None = None


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

        def search(harvest: Harvest) -> None:
            known = [point.reshape(-1).astype(np.float64) for point in starts]
            margins = [harvest.take(point) for point in known]
            if harvest.done:
                return
            first = hopped(self.options.hopping, query, budget)
            harvest.add(first)
            problem = None if harvest.done else region_problem(query, budget, bounds)
            if problem is None and not (harvest.done or budget.expired):
                harvest.note(UNSUITED)
            if problem is not None and problem.units.units:
                arena = Arena(problem, harvest, budget, self.options.capacity, self.options.polish)
                arena.add(first)
                if known:
                    arena.pool.add(np.stack(known).astype(np.float32), margins, engine=self.name)
                _search(self.options, arena, proofs or Proofs(tuple(range(query.prop.clauses))))

        return harvested(query, self.name, budget, search, judge)


def _search(options: BabAttackOptions, arena: Arena, proofs: Proofs) -> None:
    """Walk from the best candidates, then let the workers take steps of the searches in turn."""
    for start in arena.starts(options.walks):
        if not arena.done:
            arena.walk(start.point)
    steps, lock = _steps(options, arena, proofs), threading.Lock()

    def work() -> None:
        while not arena.done:
            with lock:
                step = next(steps, None)
            if step is None:
                return
            step()

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


def _steps(options: BabAttackOptions, arena: Arena, proofs: Proofs) -> Iterator[Step]:
    """The rounds' steps, in order."""
    round_: list[Step] = [HopSearch(options.hopping, arena).step] * options.hops
    top_down = None
    if options.beam is not None:
        top_down = BeamSearch(options.beam, arena, proofs.clauses, proofs.on_proof, proofs.shared)
    if options.bottom_up is not None:
        bottom_up = BottomUpSearch(options.bottom_up, arena)
        round_ += [bottom_up.step] * options.neighbourhoods
    if top_down is not None:
        round_.append(top_down.step)
    if options.dive is not None:
        dives = DiveSearch(options.dive, arena, None if top_down is None else top_down.domain)
        round_ += [dives.step] * options.dives
    return itertools.chain.from_iterable(itertools.repeat(round_, options.rounds))


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
