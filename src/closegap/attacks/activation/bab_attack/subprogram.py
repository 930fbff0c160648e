"""A part of the region as a mixed-integer program, in a process that can be killed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from closegap.attacks.activation.bab_attack.arena import Arena, Finds
from closegap.attacks.activation.bab_attack.fixing import Fixing, UnitBounds
from closegap.core.errors import EncodingError
from closegap.core.numerics import MIP_SEARCH_FEASIBILITY
from closegap.encode import EncodedNetwork, EncodeOptions, Purpose, encode
from closegap.mip.model import Claim, Emphasis, SolveOptions, Status
from closegap.verify.clause_search import solve_with

__all__ = ["SubProgram"]


@dataclass(frozen=True)
class SubProgram:
    """How a part is searched by a solver.

    Attributes:
        solver: a backend's name, or `None` for the registry's choice.
        emphasis: see `SolveOptions`.
        seconds: for one program.
        hopeless: a program is left once its optimum is known to be above this share of the
            margin to get below.
        polished: of the points the solver came through, so many of the best are polished.
    """

    solver: str | None = None
    emphasis: Emphasis = "light"
    seconds: float = 8.0
    hopeless: float = 0.5
    polished: int = 2

    def search(self, arena: Arena, part: Fixing, bounds: UnitBounds) -> Status:
        """Lower the clause's margin within the part; finds go to the arena.

        Args:
            arena: of the attack.
            part: where.
            bounds: that its phases imply.

        Returns:
            why the solver stopped, `INFEASIBLE` where the part is empty.
        """
        if bounds.exclude(part.phase):
            return Status.INFEASIBLE
        try:
            encoded = _encoded(arena, part, bounds)
        except EncodingError:
            return Status.FAILED
        found = Finds(arena)
        claim = self._solve(arena, part, encoded, found)
        found.polish(self.polished)
        return claim.status

    def _solve(
        self,
        arena: Arena,
        part: Fixing,
        encoded: EncodedNetwork,
        found: Finds,
    ) -> Claim:
        start = None if part.start is None else encoded.start_from(part.start)
        reachable = 0 < part.margin < np.inf

        def incumbent(values: Float[np.ndarray, "V"], objective: float) -> None:
            found.offer(encoded.point_of(values))

        options = SolveOptions(
            time_limit=arena.budget.within(self.seconds).remaining,
            threads=1,
            seed=arena.budget.seed,
            start=start,
            stop_at_bound=self.hopeless * part.margin if reachable else None,
            on_incumbent=incumbent,
            interrupted=lambda: arena.done,
            emphasis=self.emphasis,
            feasibility=MIP_SEARCH_FEASIBILITY,
        )
        claim, note = solve_with(self.solver, encoded, options)
        arena.note(note)
        return claim


def _encoded(arena: Arena, part: Fixing, bounds: UnitBounds) -> EncodedNetwork:
    """The part on the reduced network; phases that are implied need no row."""
    problem = arena.problem
    sides, phases = {}, {}
    for feed, layer in zip(problem.reduced.bounds, problem.units.layers, strict=True):
        sides[feed] = (bounds.lower[layer.units], bounds.upper[layer.units])
        phases[feed] = part.phase[layer.units]
    settings = EncodeOptions(purpose=Purpose.ATTACK, deadline=arena.budget.deadline)
    return encode(problem.flat, sides, clause=part.clause, options=settings, phases=phases)
