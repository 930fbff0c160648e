"""Branch and bound that bounds every layer again: for deep networks without convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.core.budget import Budget
from closegap.core.errors import SolverError
from closegap.core.verdict import Reason
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.specs.region import Ball
from closegap.strategy.outlook import Outlook
from closegap.strategy.session import Session
from closegap.strategy.tally import Tally
from closegap.verify.bab.problem import SplitProblem, split_problem
from closegap.verify.layered.search import LayeredOptions, LayeredSearch

__all__ = ["LayeredEngine", "suits_layers"]

_NAME = "layered"

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
        held = _held(session, budget)
        if held is None or not len(session.open_clauses):
            return
        session.held[_NAME] = None  # a search that fails does not go on
        search = held.search or LayeredSearch(
            held.problem, self.options, lambda p: session.offer(p, _NAME)
        )
        outcome = held.outlook.timed(lambda: search.run(budget))
        count = outcome.accounting
        session.outlook[_NAME] = held.outlook.by_share(count.open_share, count.depth)
        held.tally.tell(session, _NAME, count, {})
        if not count.balanced:
            raise SolverError("branch and bound lost a subdomain: nothing it proved is used")
        if outcome.full:
            session.limit = Reason.NODES
        session.held[_NAME] = replace(held, search=search)
        for clause in held.clauses:
            session.prove_tree(int(clause), float(outcome.lower), _NAME)


def suits_layers(session: Session, budget: Budget) -> bool:
    """True iff this engine can do something in the time, by the bounds that are known.

    Args:
        session: asked before the engine's first turn and between its turns.
        budget: of all turns together.
    """
    return session.bounds is not None and _held(session, budget) is not None


@dataclass(frozen=True, eq=False)
class _Held:
    """A search that goes on turn by turn; there is none before the first turn."""

    problem: SplitProblem
    clauses: NDArray[np.int64]
    outlook: Outlook
    search: LayeredSearch | None = None
    tally: Tally = field(default_factory=Tally)


def _held(session: Session, budget: Budget) -> _Held | None:
    """What is held; prepared when it is first asked for; `None` where nothing can be done."""
    if _NAME not in session.held:
        found = _prepared(session, budget)
        if found is None and budget.expired:  # a later turn may have the time for it
            return None
        session.held[_NAME] = found
    held = session.held[_NAME]
    return held if isinstance(held, _Held) else None


def _prepared(session: Session, budget: Budget) -> _Held | None:
    query, clauses = session.query, np.sort(session.open_clauses)
    round_ = isinstance(query.region, Ball) and query.region.norm != 2
    if not len(clauses) or round_ or not _is_dense(query.network):
        return None
    bounds = session.bounds
    if bounds is None:
        bounds = session.linear.activations(budget)
        session.learn_bounds(bounds)
    problem = split_problem(query, bounds, clauses, budget=budget)
    if problem is None or not problem.units or budget.expired:
        return None
    if not _affordable(problem, budget):
        session.note("layered: bounding every layer again takes too much time or memory")
        return None
    return _Held(problem, clauses, Outlook(1, float(session.clause_lower[clauses].min())))


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
