"""Complete verification by mixed-integer programming: one program for each clause.

Soundness. The program has, for every input of the region, a completion whose objective is the
clause's margin there, so its optimum is a lower bound of the least margin. Three rules stand
between a solver's claim and a proof:

- "infeasible" is never a proof. The program always has feasible points (every input is one), so a
  claim that there are none is trouble in the solver, and is reported as that.
- A claimed bound is lowered by `bound_allowance`, and the search for one stops only at twice that.
- Points contradict bounds: if any input was seen with a margin below the claimed bound, by more
  than the allowance, the claim is withdrawn.

Source: Tjeng, Xiao, Tedrake, Evaluating Robustness of Neural Networks with Mixed Integer
Programming (2019).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.errors import EncodingError
from closegap.encode import Bounds, EncodedNetwork, EncodeOptions, encode
from closegap.mip.certify import certified_lower_bound
from closegap.mip.model import Claim, Emphasis, SolveOptions, Status
from closegap.mip.registry import choose
from closegap.specs.query import Query
from closegap.verify.clause_search import (
    OnCandidate,
    PointStream,
    bound_allowance,
    mixed_integer_solvers,
    solve_in_turn,
)
from closegap.verify.group_rows import GroupRowOptions, with_group_rows
from closegap.verify.resolution import require_visible

__all__ = ["MipOptions", "MipOutcome", "MipVerifier"]


@dataclass(frozen=True)
class MipOptions:
    """How to search.

    Attributes:
        solver: a backend's name, or `None` for the registry's choice.
        emphasis: see `SolveOptions`.
        stop_when_proved: end as soon as the margin is proved positive; else go on to the optimum.
        encode: how the program is written.
        groups: rows over groups of ReLUs that are added to it.
    """

    solver: str | None = None
    emphasis: Emphasis = "light"
    stop_when_proved: bool = True
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    groups: GroupRowOptions = field(default_factory=GroupRowOptions)


@dataclass(frozen=True, eq=False)
class MipOutcome:
    """What is known of one clause afterwards.

    Attributes:
        clause: of the property.
        lower: lower bound of the clause's margin, allowance subtracted; -infinity for none.
        points: float32 `[M, *input shape]`: inputs the solver passed through, in the region.
        margins: float64 `[M]`, the clause's margin at each, by the float64 network.
        status: why the solver stopped; `FAILED` also where its claim was withdrawn.
        satisfied: `on_candidate` said stop.
        seconds: wall-clock, encoding included.
        nodes: branch-and-bound nodes.
        binaries: integer columns of the program.
        detail: one line for reports: the solver, its words, and what was withdrawn.
    """

    clause: int
    lower: float
    points: Float[np.ndarray, "M ..."]
    margins: Float[np.ndarray, "M"]
    status: Status
    satisfied: bool = False
    seconds: float = 0.0
    nodes: int = 0
    binaries: int = 0
    detail: str = ""

    @property
    def proved(self) -> bool:
        """True iff the clause cannot be met in the region."""
        return self.lower > 0.0


class MipVerifier:
    """Bounds clauses of queries by mixed-integer programming.

    Args:
        options: see `MipOptions`.
    """

    def __init__(self, options: MipOptions | None = None) -> None:
        self.options = MipOptions() if options is None else options

    def bound_clause(
        self,
        query: Query,
        bounds: Bounds,
        clause: int,
        budget: Budget,
        start: NDArray[np.floating] | None = None,
        on_candidate: OnCandidate | None = None,
        interrupted: Callable[[], bool] | None = None,
    ) -> MipOutcome:
        """Minimise one clause's margin.

        Args:
            query: what to decide.
            bounds: sound bounds of every pre-activation over the region.
            clause: of the property.
            budget: deadline (kept by killing the solver), nodes, seed, threads.
            start: an input to start from; the middle of the region if there is none.
            on_candidate: told of every input the solver passes through; may say stop.
            interrupted: polled at least every 0.2 s; True stops the solver.

        Raises:
            MissingDependencyError: no solver is installed.
        """
        begun = time.monotonic()
        settings = replace(self.options.encode, deadline=budget.deadline)
        try:
            encoded = encode(query, bounds, clause=clause, options=settings)
            if not encoded.model.is_linear:
                require_visible(encoded)
        except EncodingError as error:
            return _nothing(query, clause, time.monotonic() - begun, str(error))
        if not encoded.model.is_linear:
            encoded = with_group_rows(encoded, bounds, self.options.groups, budget)
        stream = PointStream(encoded, on_candidate, interrupted)
        first = query.reference if start is None else np.asarray(start)
        stream.add(first)
        if stream.stopped():
            claim, words = Claim(Status.INTERRUPTED), "stopped before the solver began"
        elif encoded.model.is_linear:
            claim, words = _solve_linear(encoded, stream, budget)
        else:
            claim, words = self._solve(encoded, stream, budget, first)
        outcome = _judge(encoded, stream, claim, words)
        return replace(outcome, seconds=time.monotonic() - begun)

    def bound_clauses(
        self,
        query: Query,
        bounds: Bounds,
        clause_lower: Float[np.ndarray, "K"],
        budget: Budget,
        start_of: Callable[[int], NDArray[np.floating] | None] | None = None,
        on_candidate: OnCandidate | None = None,
        interrupted: Callable[[], bool] | None = None,
    ) -> Iterator[MipOutcome]:
        """Bound every clause that is open, hardest last, within one budget.

        Each clause may use an equal share of what is left, so time that easy ones leave over
        goes to hard ones. Ends early once `on_candidate` said stop, or at an interruption.

        Args:
            clause_lower: proved so far; a clause above 0 is left out, the others go in descending
                order.
            start_of: an input to start a clause from.
            query, bounds, budget, on_candidate, interrupted: as in `bound_clause`.
        """
        order = np.argsort(-clause_lower, kind="stable")
        waiting = [int(clause) for clause in order if not clause_lower[clause] > 0.0]
        while waiting and not budget.expired and not (interrupted is not None and interrupted()):
            share = budget.within(budget.remaining / len(waiting))
            clause = waiting.pop(0)
            start = None if start_of is None else start_of(clause)
            outcome = self.bound_clause(
                query, bounds, clause, share, start, on_candidate, interrupted
            )
            yield outcome
            if outcome.satisfied:
                return

    def _solve(
        self,
        encoded: EncodedNetwork,
        stream: PointStream,
        budget: Budget,
        start: NDArray[np.floating],
    ) -> tuple[Claim, str]:
        solvers, note = mixed_integer_solvers(self.options.solver)
        target = 2 * bound_allowance(encoded) if self.options.stop_when_proved else None
        options = SolveOptions(
            time_limit=budget.remaining,
            node_limit=budget.nodes,
            threads=budget.threads,
            seed=budget.seed,
            start=encoded.start_from(start),
            stop_at_bound=target,
            on_incumbent=stream.incumbent,
            interrupted=stream.stopped,
            emphasis=self.options.emphasis,
        )
        claim, words = solve_in_turn(solvers, encoded, options)
        return claim, "; ".join(filter(None, [note, words]))


def _solve_linear(
    encoded: EncodedNetwork, stream: PointStream, budget: Budget
) -> tuple[Claim, str]:
    """No unit is undecided: a linear program, whose bound is computed from its duals."""
    solver, note = choose("lp")
    options = SolveOptions(
        time_limit=budget.remaining, threads=budget.threads, interrupted=stream.stopped
    )
    claim = solver.solve(encoded.model, options)
    words = "; ".join(filter(None, [note, f"{solver.name}: {claim.detail or claim.status}"]))
    if claim.point is not None:
        stream.incumbent(claim.point, claim.objective)
    bound = -math.inf
    if claim.row_duals is not None and claim.status is not Status.INFEASIBLE:
        bound = certified_lower_bound(encoded.model, claim.row_duals)
    return replace(claim, bound=bound), words


def _judge(encoded: EncodedNetwork, stream: PointStream, claim: Claim, words: str) -> MipOutcome:
    allowance = bound_allowance(encoded)
    status, lower = claim.status, claim.bound - allowance
    if status in (Status.INFEASIBLE, Status.UNBOUNDED, Status.FAILED) or not math.isfinite(lower):
        lower = -math.inf
    if status in (Status.INFEASIBLE, Status.UNBOUNDED):
        words = f"{words}; claims the program is {status}, which it cannot be"
        status = Status.FAILED
    if lower > stream.least:
        words = f"{words}; claimed bound {claim.bound:.6g} is above an attained {stream.least:.6g}"
        status, lower = Status.FAILED, -math.inf
    shape = encoded.query.network.input_shape
    return MipOutcome(
        clause=encoded.clause,
        lower=lower,
        points=np.stack(stream.points) if stream.points else np.zeros((0, *shape), np.float32),
        margins=np.asarray(stream.margins, dtype=np.float64),
        status=status,
        satisfied=stream.satisfied,
        nodes=claim.nodes,
        binaries=encoded.binaries,
        detail="; ".join([words, *encoded.inexact]),
    )


def _nothing(query: Query, clause: int, seconds: float, why: str) -> MipOutcome:
    return MipOutcome(
        clause=clause,
        lower=-math.inf,
        points=np.zeros((0, *query.network.input_shape), np.float32),
        margins=np.zeros(0),
        status=Status.FAILED,
        seconds=seconds,
        detail=why,
    )
