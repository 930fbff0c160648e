"""Bounds under the assumption that a clause is broken, one clause after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.core.errors import SolverError
from closegap.strategy.outlook import Patience
from closegap.strategy.session import Session
from closegap.verify.bab.multineuron import MultiNeuronOptions
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.problem import split_problem
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.cutoff import CutoffOptions, CutoffSearch
from closegap.verify.reduction import reduced_query

__all__ = ["CutoffEngine"]


@dataclass(frozen=True)
class CutoffEngine:
    """Tightens every layer for each open clause, the one closest to a proof first.

    A clause that stays open gets a tree of its own, for its bounds hold for no other clause; rows
    that hold on the whole region hold there too. Where the time is too short for a single sweep,
    all of it is left to the engines that follow.

    Attributes:
        options: how hard to try one clause.
        branching: how to search its tree; without rows over groups of neurons, for under a cutoff
            that contradicts itself they have no point to hold at.
        share: of the time that is left, for tightening all clauses.
        tree_share: of the time that is left then, for all trees.
        patience: a tree is left once, by how its bound rose, it would not close in so many times
            the time it has left; infinity leaves none for that.
    """

    options: CutoffOptions = field(default_factory=CutoffOptions)
    branching: BranchOptions = field(
        default_factory=lambda: BranchOptions(multineuron=MultiNeuronOptions())
    )
    share: float = 0.5
    tree_share: float = 0.85
    patience: float = 2.0

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        known = session.bounds
        if known is None:
            known = session.linear.activations(budget)
            session.learn_bounds(known)
        spend = budget.within(self.share * budget.remaining)
        clauses = session.open_clauses
        small = reduced_query(session.query, known, spend)
        asked, start = (session.query, known) if small is None else (small.query, small.bounds)
        slack = None if small is None else small.slack
        left: dict[int, NetworkBounds] = {}
        for place, clause in enumerate(clauses):
            if session.decided or spend.expired:
                break
            search = CutoffSearch(asked, int(clause), start, self.options, slack)
            search.run(spend.within(spend.remaining / (len(clauses) - place)))
            proved = math.inf if search.refuted else min(search.guide, 0.0)
            session.prove_tree(int(clause), proved, "cutoff")
            if not (search.refuted or search.sweeps):
                break
            if not search.refuted:
                found = search.bounds
                if small is not None:
                    found = small.back(known, found.activations)
                left[int(clause)] = found
        spend = budget.within(self.tree_share * budget.remaining)
        for place, (clause, bounds) in enumerate(left.items()):
            if session.decided or spend.expired:
                return
            each = spend.within(spend.remaining / (len(left) - place))
            self._branch(session, clause, bounds, each)

    def _branch(self, session: Session, clause: int, bounds: NetworkBounds, budget: Budget) -> None:
        """A tree under the cutoff; up to zero, what it proves holds on the whole region."""
        problem = split_problem(session.query, bounds, np.array([clause]), budget=budget)
        if problem is None or budget.expired:
            return
        search = BranchAndBound(problem, self.branching, lambda p: session.offer(p, "cutoff"))
        given = session.held.get("rows", [])
        assert isinstance(given, list)
        search.give([rows for rows in given if rows.clause == clause])
        patience = Patience(search.tree, budget, self.patience)
        outcome = search.run(budget, enough=patience.ended)
        count = outcome.accounting
        session.count(nodes=count.created, leaves=count.closed)
        if not count.balanced:
            raise SolverError("branch and bound lost a subdomain: nothing it proved is used")
        session.prove_tree(clause, float(outcome.lower[0]), "cutoff")
