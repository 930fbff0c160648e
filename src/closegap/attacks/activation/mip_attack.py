"""The MIP attack: search for a counterexample with a mixed-integer solver.

The program is the one of MIP verification, except that signs keep clear of their discontinuity;
the solver is after points, not bounds. Source: Tjeng, Xiao, Tedrake (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.core.errors import EncodingError
from closegap.encode import Bounds, EncodeOptions, Purpose, encode
from closegap.mip.model import SolveOptions
from closegap.specs.query import Query
from closegap.verify.clause_search import (
    OnCandidate,
    PointStream,
    bound_allowance,
    mixed_integer_solvers,
    solve_in_turn,
)

__all__ = ["MipAttack", "MipAttackOptions"]


@dataclass(frozen=True)
class MipAttackOptions:
    """How to search.

    Attributes:
        solver: a backend's name, or `None` for the registry's choice.
        emphasis: see `SolveOptions`.
        give_up_when_safe: leave a clause once the solver believes that it cannot be met.
        encode: how the program is written; its purpose is always the attack.
    """

    solver: str | None = None
    emphasis: str = "light"
    give_up_when_safe: bool = True
    encode: EncodeOptions = field(default_factory=EncodeOptions)


class MipAttack:
    """Minimises the margin of clauses until an input is accepted as a counterexample.

    Args:
        options: see `MipAttackOptions`.
    """

    name = "mip"

    def __init__(self, options: MipAttackOptions | None = None) -> None:
        self.options = MipAttackOptions() if options is None else options

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
            every input the solvers passed through (starts not included), best first.

        Raises:
            MissingDependencyError: no solver is installed.
        """
        chosen = range(query.prop.clauses) if clauses is None else clauses
        hit = _below_zero(query) if on_candidate is None else on_candidate
        points: list[NDArray[np.float32]] = []
        satisfied = False
        waiting = list(_by_start(query, starts, chosen))
        while waiting and not satisfied and not budget.expired:
            if interrupted is not None and interrupted():
                break
            share = budget.within(budget.remaining / len(waiting))
            clause, start = waiting.pop(0)
            stream = self._clause(query, bounds, clause, share, start, hit, interrupted)
            if stream is not None:
                points.extend(stream.points)
                satisfied = stream.satisfied
        return _outcome(self.name, query, points, finished=satisfied or not waiting)

    def _clause(
        self,
        query: Query,
        bounds: Bounds,
        clause: int,
        budget: Budget,
        start: NDArray[np.floating] | None,
        on_candidate: OnCandidate,
        interrupted: Callable[[], bool] | None,
    ) -> PointStream | None:
        """Minimise one clause's margin; `None` where it cannot be written as a program."""
        settings = replace(
            self.options.encode, purpose=Purpose.ATTACK, relax=False, deadline=budget.deadline
        )
        try:
            encoded = encode(query, bounds, clause=clause, options=settings)
        except EncodingError:
            return None
        stream = PointStream(encoded, on_candidate, interrupted)
        solvers, _ = mixed_integer_solvers(self.options.solver)
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
        solve_in_turn(solvers, encoded, options)
        return stream
