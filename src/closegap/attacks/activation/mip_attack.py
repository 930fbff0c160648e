"""The MIP attack: search for a counterexample with a mixed-integer solver.

The program is the one of MIP verification, except that signs keep clear of their discontinuity;
the solver is after points, not bounds. Source: Tjeng, Xiao, Tedrake (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.loop import run as run_method
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack
from closegap.attacks.outcome import AttackOutcome
from closegap.attacks.projection import to_float32_inside
from closegap.bounds.optimise import AscentOptions
from closegap.core.budget import Budget
from closegap.core.errors import EncodingError
from closegap.encode import Bounds, EncodeOptions, Purpose, encode
from closegap.mip.model import Emphasis, SolveOptions, Status
from closegap.runtime.cache import compiled
from closegap.specs.query import Query
from closegap.verify.clause_search import (
    OnCandidate,
    PointStream,
    bound_allowance,
    solve_with,
)
from closegap.verify.incomplete import AlphaOptions, LinearVerifier

__all__ = ["MIPAttack", "MipAttack", "MipAttackOptions", "mip_attack"]

#: Without an accepted input, a search that ended so was not brought to its end.
_CUT_OFF = frozenset({Status.TIME, Status.NODES, Status.INTERRUPTED, Status.FAILED})


@dataclass(frozen=True)
class MipAttackOptions:
    """How to search.

    Attributes:
        solver: a backend's name, or `None` for the registry's choice.
        emphasis: see `SolveOptions`.
        give_up_when_safe: leave a clause once the solver believes that it cannot be met.
        encode: how the program is written; its purpose is always the attack.
        warm: gradient runs that the solver starts from, where nothing else is given.
        slopes: climbing on the bounds of the activations, where none are known.
    """

    solver: str | None = None
    emphasis: Emphasis = "light"
    give_up_when_safe: bool = True
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    warm: Descent = field(
        default_factory=lambda: Descent("ods-pgd", steps=30, restarts=16, diversify=8)
    )
    slopes: AscentOptions = field(default_factory=lambda: AlphaOptions().inner)


class MipAttack:
    """Minimises the margin of clauses until an input is accepted as a counterexample.

    Args:
        options: see `MipAttackOptions`.
    """

    name = "mip"

    def __init__(self, options: MipAttackOptions | None = None) -> None:
        self.options = MipAttackOptions() if options is None else options

    def attack_query(self, query: Query, budget: Budget) -> AttackOutcome:
        """Attack one query: gradient runs, bounds by alpha-CROWN, then every clause's program.

        A network that cannot be written as a program gets the gradient runs only.

        Args:
            query: what to break.
            budget: see `run`.

        Returns:
            the best candidates, all inside the region.

        Raises:
            AttackInterrupted: Ctrl-C, with what was found until then.
            MissingDependencyError: no solver is installed.
        """
        harvest = Harvest(query)
        if budget.expired or not query.prop.clauses:
            return harvest.ended(self.name, budget)
        with harvest.kept(self.name):
            network = compiled(query.network, torch.float32)
            first = run_method(network, [query], self.options.warm, budget)[0]
            harvest.add(first)
            finished = first.finished
            if not (harvest.done or budget.expired):
                finished = self._programs(query, harvest, first.points, budget)
        return harvest.outcome(self.name, finished=harvest.done or finished)

    def _programs(
        self, query: Query, harvest: Harvest, starts: NDArray[np.float32], budget: Budget
    ) -> bool:
        """Harvest what the solvers find; False where one of them was cut off."""

        def take(point: NDArray[np.float64]) -> bool:
            harvest.take(point.reshape(-1))
            return harvest.done

        half = budget.within(budget.remaining / 2)
        verifier = LinearVerifier(query)
        bounds = verifier.activations(half)
        bounds = verifier.activations(half, bounds, self.options.slopes)
        outcome = self.run(query, bounds.flat(), budget, list(starts), take)
        for text in outcome.notes:
            harvest.note(text)
        return outcome.finished

    def run(
        self,
        query: Query,
        bounds: Bounds,
        budget: Budget,
        starts: Sequence[NDArray[np.floating]] = (),
        on_candidate: OnCandidate | None = None,
        interrupted: Callable[[], bool] | None = None,
        clauses: Sequence[int] | None = None,
    ) -> AttackOutcome:
        """Attack the clauses in turn, the one with the best start first.

        Each clause may use an equal share of the time that is left.

        Args:
            query: what to break.
            bounds: sound bounds of every pre-activation over the region.
            budget: deadline (kept by killing the solver), nodes, seed, threads.
            starts: candidates; each clause starts from the one with its least margin.
            on_candidate: told of every input on the way; True means that it is a witness, and
                ends the attack. Without it, the first input with a margin below 0 ends it.
            interrupted: polled at least every 0.2 s; True stops the attack.
            clauses: which to attack; `None` for all.

        Returns:
            every input the solvers passed through (starts not included), best first. It is finished
            where an input was accepted, or no solver failed or met a limit.

        Raises:
            MissingDependencyError: no solver is installed.
        """
        chosen = range(query.prop.clauses) if clauses is None else clauses
        hit = _below_zero(query) if on_candidate is None else on_candidate
        points: list[NDArray[np.float32]] = []
        notes: dict[str, None] = {}
        satisfied, cut_off = False, False
        waiting = list(_by_start(query, starts, chosen))
        while waiting and not satisfied and not budget.expired:
            if interrupted is not None and interrupted():
                break
            share = budget.within(budget.remaining / len(waiting))
            clause, start = waiting.pop(0)
            tried = self._clause(query, bounds, clause, share, start, hit, interrupted)
            if tried is not None:
                stream, status, note = tried
                points.extend(stream.points)
                satisfied, cut_off = stream.satisfied, cut_off or status in _CUT_OFF
                notes[note] = None
        finished = satisfied or not (waiting or cut_off)
        return _outcome(self.name, query, points, notes, finished=finished)

    def _clause(
        self,
        query: Query,
        bounds: Bounds,
        clause: int,
        budget: Budget,
        start: NDArray[np.floating] | None,
        on_candidate: OnCandidate,
        interrupted: Callable[[], bool] | None,
    ) -> tuple[PointStream, Status, str] | None:
        """Minimise one clause's margin; `None` where it cannot be written as a program.

        Last, which solver was missing or failed.
        """
        settings = replace(
            self.options.encode, purpose=Purpose.ATTACK, relax=False, deadline=budget.deadline
        )
        try:
            encoded = encode(query, bounds, clause=clause, options=settings)
        except EncodingError:
            return None
        stream = PointStream(encoded, on_candidate, interrupted)
        options = SolveOptions(
            time_limit=budget.remaining,
            node_limit=budget.nodes,
            threads=budget.threads,
            seed=budget.seed,
            start=None if start is None else encoded.start_from(start),
            stop_at_bound=bound_allowance(encoded) if self.options.give_up_when_safe else None,
            on_incumbent=stream.incumbent,
            interrupted=stream.stopped,
            emphasis=self.options.emphasis,
        )
        claim, note = solve_with(self.options.solver, encoded, options)
        return stream, claim.status, note


def _margins(query: Query, points: NDArray[np.float32]) -> NDArray[np.float64]:
    """The property's margins `[M]` by the float64 network."""
    network = compiled(query.network, torch.float64)
    with torch.no_grad():
        outputs = network(network.tensor(points)).numpy()
    return query.prop.margins(outputs)


def _below_zero(query: Query) -> OnCandidate:
    """Accept the first member of the region that breaks the property in float64."""

    def accept(point: NDArray[np.float64]) -> bool:
        inside = to_float32_inside(query.region, point)
        return inside is not None and query.prop.broken_by(float(_margins(query, inside[None])[0]))

    return accept


def _by_start(
    query: Query, starts: Sequence[NDArray[np.floating]], clauses: Sequence[int]
) -> Iterator[tuple[int, NDArray[np.floating] | None]]:
    """Clauses in ascending order of their best start's margin, each with that start."""
    if not len(starts):
        yield from ((clause, None) for clause in clauses)
        return
    network = compiled(query.network, torch.float64)
    with torch.no_grad():
        outputs = network(network.tensor(np.stack(starts))).numpy()
    margins = query.prop.clause_values(query.prop.row_margins(outputs))
    best = margins.argmin(axis=0)
    for clause in sorted(clauses, key=lambda k: float(margins[best[k], k])):
        yield clause, starts[int(best[clause])]


def _outcome(
    name: str,
    query: Query,
    points: Sequence[NDArray[np.float32]],
    notes: Iterable[str],
    *,
    finished: bool,
) -> AttackOutcome:
    shape = query.network.input_shape
    stacked = np.stack(points) if len(points) else np.zeros((0, *shape), np.float32)
    margins = _margins(query, stacked) if len(points) else np.zeros(0)
    order = np.argsort(margins, kind="stable")
    return AttackOutcome(
        method=name,
        points=stacked[order],
        margins=margins[order],
        evaluations=len(points),
        finished=finished,
        notes=tuple(filter(None, notes)),
    )


def mip_attack(options: AttackOptions) -> MipAttack:
    """The attack; `steps` and `restarts` are those of the gradient runs before it."""
    sizes = MipAttackOptions()
    warm = replace(
        sizes.warm,
        steps=options.steps or sizes.warm.steps,
        restarts=options.restarts or sizes.warm.restarts,
    )
    return MipAttack(replace(sizes, warm=warm))


#: `MIPAttack(net, eps=0.1)(images, labels)`: adversarial images.
MIPAttack = ImageAttack(mip_attack)
