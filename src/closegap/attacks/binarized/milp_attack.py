"""The attack by integer programs, clause by clause."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.binarized.milp import sign_program
from closegap.attacks.binarized.problem import BinarizedProblem, searched
from closegap.attacks.binarized.straight_through import (
    StraightThroughAttack,
    StraightThroughOptions,
    short_runs,
)
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.outcome import AttackOutcome
from closegap.core.budget import Budget
from closegap.core.numerics import MIP_RESOLUTION
from closegap.mip.model import SolveOptions
from closegap.mip.registry import choose
from closegap.specs.query import Query

__all__ = ["SignMilpAttack", "SignMilpOptions", "sign_milp"]


@dataclass(frozen=True)
class SignMilpOptions:
    """How to search.

    Attributes:
        solver: a backend's name, or `None` for the registry's choice.
        feasibility: ask for any counterexample instead of the least margin.
        warm: the gradient runs whose best point each program starts from.
    """

    solver: str | None = None
    feasibility: bool = False
    warm: StraightThroughOptions = field(default_factory=short_runs)


@dataclass(frozen=True)
class SignMilpAttack:
    """Solves one program a clause, those of least margin first."""

    options: SignMilpOptions = field(default_factory=SignMilpOptions)
    name: str = "milp"

    def attack_query(self, query: Query, budget: Budget) -> AttackOutcome:
        """See `QueryAttack`.

        Raises:
            OptionError: the network is not binarized, or pools; says why.
        """
        return searched(query, self.name, budget, self._search, single=True)

    def _search(self, problem: BinarizedProblem | None, harvest: Harvest, budget: Budget) -> None:
        warm = StraightThroughAttack(self.options.warm)
        harvest.add(warm.attack_query(harvest.query, budget.within(budget.remaining / 4)))
        if problem is not None:
            best = harvest.outcome(self.name, finished=False).best
            middle = (problem.lower + problem.upper) / 2
            start = middle if best is None else best.reshape(-1).astype(np.float64)
            self._programs(problem, harvest, start, budget)

    def _programs(
        self,
        problem: BinarizedProblem,
        harvest: Harvest,
        start: NDArray[np.float64],
        budget: Budget,
    ) -> None:
        margins = problem.scores(problem.bits(problem.sums.at(start[None])))[0][0]
        waiting = [int(clause) for clause in np.argsort(margins)]
        backend, _ = choose("mip", self.options.solver)
        while waiting and not (harvest.done or budget.expired):
            share = budget.remaining / len(waiting)
            clause = waiting.pop(0)
            least = -MIP_RESOLUTION if self.options.feasibility else -np.inf
            program = sign_program(problem, clause, budget, least=least)
            if program is None:
                return
            options = SolveOptions(
                time_limit=share,
                threads=budget.threads,
                seed=budget.seed,
                start=program.start(start),
                stop_at_bound=None if self.options.feasibility else 0.0,
                on_incumbent=lambda values, _: _take(harvest, values[: len(start)]),
                interrupted=lambda: harvest.done,
            )
            claim = backend.solve(program.model, options)
            if claim.point is not None:
                _take(harvest, claim.point[: len(start)])


def _take(harvest: Harvest, point: NDArray[np.float64]) -> None:
    harvest.take(np.asarray(point, dtype=np.float64))


def sign_milp(options: AttackOptions) -> SignMilpAttack:
    """The attack; `steps` and `restarts` are those of the gradient runs before it."""
    sizes = SignMilpOptions()
    warm = replace(
        sizes.warm,
        steps=options.steps or sizes.warm.steps,
        restarts=options.restarts or sizes.warm.restarts,
    )
    return SignMilpAttack(replace(sizes, warm=warm))
