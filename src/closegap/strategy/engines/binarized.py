"""Binarized networks: search among signs, then exact branch and bound over the first layer's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Int

from closegap.attacks.binarized.portfolio import SignPortfolio
from closegap.core.budget import Budget
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.ops import Sign
from closegap.runtime.cache import binarized
from closegap.specs.region import Ball
from closegap.strategy.session import Session
from closegap.verify.binarized.satisfiability import SignFormula, why_not
from closegap.verify.binarized.tree import SignSearch, open_signs

__all__ = ["BinarizedEngine"]


@dataclass(frozen=True)
class BinarizedEngine:
    """Does nothing on other networks.

    Attributes:
        attack: the searches among signs.
        attack_share: of the time that is left, for it.
        tree_share: of the time that is left then, for the proof.
        method: of the proof: `"tree"` is branch and bound, `"sat"` asks a SAT solver clause by
            clause and needs the extra `sat`; it was slower wherever both were tried.
        most_entries: of the dense matrix of a layer, above which branch and bound is not tried.
    """

    attack: SignPortfolio = field(default_factory=SignPortfolio)
    attack_share: float = 0.1
    tree_share: float = 0.5
    method: Literal["tree", "sat"] = "tree"
    most_entries: int = 1 << 24

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        query = session.query
        if not any(isinstance(node.op, Sign) for node in query.network.nodes):
            return
        form = binarized(query.network)
        if isinstance(form, str):
            session.note(f"binarized: {form}")
            return
        spend = budget.within(self.attack_share * budget.remaining)
        session.offer(self.attack.attack_query(query, spend).points, "binarized")
        if not session.decided and not isinstance(query.region, Ball):
            self._prove(session, form, budget.within(self.tree_share * budget.remaining))

    def _prove(self, session: Session, form: BinarizedForward, budget: Budget) -> None:
        network, shape = form.network, session.query.network.input_shape
        if network.first.thresholds.taken.shape[1] > 1:
            session.note("binarized: no branch and bound, the first layer's signs pool sums")
            return
        clauses = np.sort(session.open_clauses)
        sizes = [layer.patches.size * layer.thresholds.units for layer in network.hidden]
        entries = max([open_signs(session.query, network) * int(np.prod(shape)), *sizes])
        if entries > self.most_entries:
            session.note(f"binarized: no branch and bound, a layer has {entries} open weights")
            return
        if self.method == "sat":
            self._ask(session, form, clauses, budget)
            return
        search = SignSearch(
            session.query,
            form,
            clauses,
            lambda point: session.offer(point.reshape(1, *shape), "binarized"),
        )
        search.run(budget)
        session.count(sign_nodes=search.nodes)
        for clause in clauses.tolist():
            session.prove_clause(clause, search.lower(clause), "binarized")

    def _ask(
        self,
        session: Session,
        form: BinarizedForward,
        clauses: Int[np.ndarray, "open"],
        budget: Budget,
    ) -> None:
        reason = why_not(form)
        if reason:
            session.note(f"binarized: no proof by SAT, {reason}")
            return
        shape = session.query.network.input_shape
        for place, clause in enumerate(clauses.tolist()):
            if session.decided or budget.expired:
                return
            formula = SignFormula(
                session.query,
                form,
                clause,
                lambda point: session.offer(point.reshape(1, *shape), "binarized"),
            )
            formula.run(budget.within(budget.remaining / (len(clauses) - place)))
            formula.close()
            session.count(sign_models=formula.models)
            if formula.proved:
                session.prove_clause(clause, formula.lower, "binarized")
