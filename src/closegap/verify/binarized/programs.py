"""The exact integer program of a binarized network, clause by clause: proofs and witnesses.

First sums may miss their thresholds by a gap, so every input of the box is a point of the program
and its optimum a lower bound of the margin; behind them sums are integers, and nothing is lost. A
solver's bound is lowered by `MIP_BOUND_MARGIN`, infeasibility is never a proof, and a bound above
the margin of a point that the solver passed through is withdrawn. Signs that break the clause are
sought again by a linear program, clear of all thresholds, so that the input survives rounding.
Source: Khalil, Gupta, Dilkina, Combinatorial Attacks on Binarized Neural Networks (ICLR 2019),
section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from closegap.attacks.binarized.milp import SignProgram, sign_program
from closegap.attacks.binarized.problem import binarized_problem, require_single_sums
from closegap.core.budget import Budget
from closegap.core.errors import OptionError
from closegap.core.numerics import MIP_BOUND_MARGIN
from closegap.graph.binarized.first_layer import sum_bounds
from closegap.mip.model import Claim, SolveOptions, Status
from closegap.mip.registry import choose
from closegap.specs.query import Query
from closegap.verify.binarized.cells import CellPrograms, half_spaces

__all__ = ["SignPrograms"]

#: Claims that are no bound.
_NO_BOUND = (Status.INFEASIBLE, Status.UNBOUNDED, Status.FAILED)


class SignPrograms:
    """The programs of one query.

    Args:
        query: on a box, about a binarized network that pools nothing.
        offer: told of inputs that seem to break the property; True ends the search.

    Attributes:
        nodes: of the solver's trees, summed.
        broken: an input was accepted.
        trouble: what a solver said that cannot be; empty where there was none.

    Raises:
        OptionError: the network or the region is none of these.
    """

    def __init__(self, query: Query, offer: Callable[[NDArray[np.float64]], bool]) -> None:
        problem = binarized_problem(query, "program", whole=True)
        if problem is None:
            raise OptionError("program wants a box as region")
        require_single_sums(problem, "program")
        self._problem, self._offer = problem, offer
        first, box = problem.forward.network.first, (problem.lower, problem.upper)
        spaces = half_spaces(first, sum_bounds(first, *box), box, problem.free)
        self._cells = CellPrograms(spaces)
        self.nodes, self.broken, self.trouble = 0, False, ""

    def bound(self, clause: int, budget: Budget) -> float:
        """Lower bound of a clause's margin; -infinity where there is none, or no time is left.

        Ends early once the margin is proved positive or an input is accepted.
        """
        program = sign_program(self._problem, clause, budget, outward=True)
        if program is None:
            return -np.inf
        allowance = _allowance(program)
        seen: list[float] = []

        def incumbent(values: NDArray[np.float64], _: float) -> None:
            seen.append(self._looked_at(program, values, budget))

        options = SolveOptions(
            time_limit=budget.remaining,
            node_limit=budget.nodes,
            threads=budget.threads,
            seed=budget.seed,
            stop_at_bound=2 * allowance,
            on_incumbent=incumbent,
            interrupted=lambda: self.broken,
        )
        claim = choose("mip")[0].solve(program.model, options)
        self.nodes += claim.nodes
        return self._judged(claim, allowance, min(seen, default=np.inf))

    def _looked_at(
        self, program: SignProgram, values: NDArray[np.float64], budget: Budget
    ) -> float:
        """The margin of an incumbent's signs; they are offered where it breaks the property."""
        problem, inputs = self._problem, len(self._problem.lower)
        signs = np.where(values[inputs : inputs + len(problem.free)] > 0.5, 1, -1)
        known = problem.known.copy()
        known[problem.free] = signs
        prop = problem.query.prop
        outputs = problem.forward.outputs(known[None] > 0)
        margin = float(prop.clause_values(prop.row_margins(outputs))[0, program.clause])
        if prop.broken_by(margin) and not self.broken:
            self.broken = self._realised(values[:inputs], signs, budget)
        return margin

    def _realised(
        self, point: NDArray[np.float64], signs: Int[np.ndarray, "free"], budget: Budget
    ) -> bool:
        clear = self._cells.clear_points(signs, budget.remaining)
        return any(map(self._offer, chain(clear, [point])))

    def _judged(self, claim: Claim, allowance: float, least: float) -> float:
        lower = claim.bound - allowance
        if claim.status in _NO_BOUND:
            self.trouble = f"program: {claim.detail or claim.status}"
            return -np.inf
        if lower > least:
            self.trouble = f"program: claimed bound {claim.bound:.6g} is above {least:.6g}"
            return -np.inf
        return lower if np.isfinite(lower) else -np.inf


def _allowance(program: SignProgram) -> float:
    """What a claimed bound is lowered by: a share of the largest the margin can be."""
    return MIP_BOUND_MARGIN * float(max(1.0, program.model.upper[-1]))
