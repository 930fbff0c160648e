"""Binarized networks: search among signs, branch and bound over the first layer's, programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Int

from closegap.attacks.binarized.portfolio import SignPortfolio
from closegap.core.budget import Budget
from closegap.core.verdict import Reason
from closegap.graph.binarized.fold import folded
from closegap.graph.binarized.forward import BinarizedForward
from closegap.graph.binarized.records import BinarizedNetwork
from closegap.graph.ops import Sign
from closegap.runtime.cache import binarized
from closegap.specs.query import Query
from closegap.specs.region import Ball, bounding_box
from closegap.strategy.session import Session
from closegap.verify.binarized.groups import group_bounds
from closegap.verify.binarized.programs import SignPrograms
from closegap.verify.binarized.satisfiability import SignFormula, why_not
from closegap.verify.binarized.tree import SignSearch

__all__ = ["BinarizedEngine"]


@dataclass(frozen=True)
class BinarizedEngine:
    """Does nothing on other networks.

    Attributes:
        attack: the searches among signs.
        attack_share: of the time that is left, for it.
        tree_share: of the time that is left then, for the proof.
        program_share: of what the proof leaves, for integer programs of the clauses it left open.
        method: of the proof: `"tree"` is branch and bound, `"sat"` asks a SAT solver clause by
            clause and needs the extra `sat`; it was slower wherever both were tried.
        most_entries: of a layer's dense matrix on the box, above which there is no proof.
    """

    attack: SignPortfolio = field(default_factory=SignPortfolio)
    attack_share: float = 0.1
    tree_share: float = 0.5
    program_share: float = 0.6
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
        network = (
            None if isinstance(query.region, Ball) else _on_box(query, form, self.most_entries)
        )
        if network is not None:
            rows = np.arange(len(query.prop.rows))
            session.prove_rows(rows, group_bounds(network, query.prop, budget), "binarized")
        if session.decided:
            return
        spend = budget.within(self.attack_share * budget.remaining)
        session.offer(self.attack.attack_query(query, spend).points, "binarized")
        if session.decided or isinstance(query.region, Ball):
            return
        reason = _too_hard(network, self.most_entries)
        if network is None or reason:
            session.note(f"binarized: no branch and bound, {reason}")
            return
        proof = budget.within(self.tree_share * budget.remaining)
        self._prove(session, network, proof)
        if proof.expired and not session.decided:
            session.limit = Reason.TIME
        self._solve(session, network, budget.within(self.program_share * budget.remaining))

    def _prove(self, session: Session, network: BinarizedNetwork, budget: Budget) -> None:
        """Clause by clause, about the network on the box."""
        query, form = session.query, BinarizedForward(network)
        clauses, shape = np.sort(session.open_clauses), query.network.input_shape
        if self.method == "sat":
            self._ask(session, form, clauses, budget)
            return
        search = SignSearch(
            query,
            form,
            clauses,
            lambda point: session.offer(point.reshape(1, *shape), "binarized"),
        )
        search.run(budget)
        session.count(sign_nodes=search.nodes)
        for clause in clauses.tolist():
            session.prove_clause(clause, search.lower(clause), "binarized")

    def _solve(self, session: Session, network: BinarizedNetwork, budget: Budget) -> None:
        """By integer programs, the clauses nearest to a proof first."""
        shape = session.query.network.input_shape
        if session.decided or budget.expired:
            return
        if any(layer.thresholds.taken.shape[1] > 1 for layer in network.hidden):
            session.note("binarized: no integer programs, hidden signs pool sums")
            return
        programs = SignPrograms(
            session.query, lambda point: session.offer(point.reshape(1, *shape), "binarized")
        )
        waiting = session.open_clauses.tolist()
        while waiting and not (programs.broken or budget.expired):
            share = budget.within(budget.remaining / len(waiting))
            clause = waiting.pop(0)
            session.prove_clause(clause, programs.bound(clause, share), "binarized")
        session.count(sign_program_nodes=programs.nodes)
        session.note(programs.trouble)

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


def _on_box(query: Query, form: BinarizedForward, most_entries: int) -> BinarizedNetwork | None:
    box = bounding_box(query.region)
    low, high = (end.reshape(-1).astype(np.float64) for end in (box.lower, box.upper))
    return folded(form.network, low, high, most_entries)


def _too_hard(network: BinarizedNetwork | None, most_entries: int) -> str:
    """Why there is no branch and bound; empty where there may be."""
    if network is None:
        return f"a layer keeps over {most_entries} weights on the box"
    if not network.last.weight.size:
        return "every sign is fixed on the box"
    first = network.first.thresholds
    if first.taken.shape[1] > 1:
        return "the first layer's signs pool sums"
    entries = first.units * int(np.prod(network.input_shape))
    return f"the first layer has {entries} open weights" if entries > most_entries else ""
