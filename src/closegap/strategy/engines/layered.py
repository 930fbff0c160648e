"""Branch and bound that bounds every layer again: for deep networks without convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from closegap.core.budget import Budget
from closegap.core.errors import SolverError
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.specs.region import Ball
from closegap.strategy.session import Session
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.layered.search import LayeredOptions, LayeredSearch

__all__ = ["LayeredEngine"]

#: A tree that closed says "positive" without saying how much.
_PROVED = float(np.finfo(np.float32).tiny)
#: Bytes that one coefficient of a row takes, with everything made from it, in a small batch.
_BYTES = 8 * 48
#: Float64 multiplications and additions a second of one core, roughly.
_PRODUCTS_A_SECOND = 1e10
#: Of the time that is left one domain may take this much.
_SHARE = 0.2


@dataclass(frozen=True)
class LayeredEngine:
    """Splits ReLUs of fully connected networks; early layers pay most, and later ones follow.

    Attributes:
        options: how to search.
    """

    options: LayeredOptions = field(default_factory=LayeredOptions)

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`; does nothing where the network or the region is of another kind."""
        query, clauses = session.query, np.sort(session.open_clauses)
        if not len(clauses) or isinstance(query.region, Ball) or not _is_dense(query.network):
            return
        bounds = session.bounds
        if bounds is None:
            bounds = session.linear.activations(budget)
            session.learn_bounds(bounds)
        problem = split_problem(query, bounds, clauses)
        if problem is None or not problem.units:
            return
        if not _affordable(problem, budget):
            session.note("layered: bounding every layer again takes too much time or memory")
            return
        search = LayeredSearch(problem, self.options, lambda p: session.offer(p, "layered"))
        outcome = search.run(budget)
        count = outcome.accounting
        session.count(nodes=count.created, leaves=count.closed, open=count.open, stuck=count.stuck)
        session.deepest(count.depth)
        if not count.balanced:
            raise SolverError("branch and bound lost a subdomain: nothing it proved is used")
        for clause in clauses:
            session.prove_clause(int(clause), float(min(outcome.lower, _PROVED)), "layered")


def _affordable(problem: SplitProblem, budget: Budget) -> bool:
    """Whether the rows of a layer fit the memory, and one domain a small share of the time."""
    network = problem.exact.network
    most = max(len(layer.indices) for layer in problem.layers)
    room = 2 * most * max(node.size for node in network.nodes) * _BYTES
    weights = sum(n.op.weight.size for n in network.nodes if isinstance(n.op, ops.Linear))
    seconds = 8 * problem.units * weights / _PRODUCTS_A_SECOND
    return room <= budget.memory and seconds <= _SHARE * budget.remaining


def _is_dense(network: Network) -> bool:
    """Several ReLU layers with nothing but matrix products between them."""
    if any(isinstance(node.op, ops.Conv | ops.ConvTranspose) for node in network.nodes):
        return False
    hinges = [
        isinstance(network.nodes[i].op, ops.Relu | ops.LeakyRelu) for i in network.activations
    ]
    return len(hinges) > 1 and all(hinges)
