"""Branch and bound that bounds every layer again: for deep networks without convolutions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.core.errors import SolverError
from closegap.core.verdict import Reason
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.specs.region import Ball
from closegap.strategy.continuation import keeper, pack_bounds, question, unpack_bounds
from closegap.strategy.outlook import Outlook
from closegap.strategy.session import Session
from closegap.strategy.shelf import Arrays
from closegap.strategy.tally import COUNTED, Tally
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
        held = self._begun(session, budget)
        if held is None or held.search is None or not len(session.open_clauses):
            return
        search = held.search
        session.held[_NAME] = None  # a search that fails does not go on
        session.shelf.trees.pop(_NAME, None)
        fixed = held.arrays(session, self.options)
        outcome = held.outlook.timed(lambda: search.run(budget, keeper(session, _NAME, fixed)))
        count = outcome.accounting
        session.outlook[_NAME] = held.outlook.by_share(count.open_share, count.depth)
        held.tally.tell(session, _NAME, count, {})
        if not count.balanced:
            raise SolverError("branch and bound lost a subdomain: nothing it proved is used")
        if outcome.full:
            session.limit = Reason.NODES
        session.held[_NAME] = held
        told = held.arrays(session, self.options)
        session.shelf.trees[_NAME] = lambda: {**search.state(), **told}
        for clause in held.problem.clauses:
            session.prove_tree(int(clause), float(outcome.lower), _NAME)

    def _begun(self, session: Session, budget: Budget) -> _Held | None:
        """What is held, with a search; one that an earlier run was in goes on, if it is ours."""
        held = _held(session, budget)
        if held is None or held.search is not None:
            return held
        search = LayeredSearch(held.problem, self.options, lambda p: session.offer(p, _NAME))
        kept = session.shelf.tree(_NAME) if held.resumed else {}
        try:
            if held.resumed:
                if not np.array_equal(kept["asked"], question(session.query, self.options)):
                    raise ValueError("the tree is one of another question, or of other settings")
                search.resume(kept)
        except (ValueError, KeyError, IndexError) as error:
            del session.held[_NAME]
            _refuse(session, error)
            return self._begun(session, budget)
        session.count(resumed=len(kept["state"]) if held.resumed else 0)
        return replace(held, search=search)


def suits_layers(session: Session, budget: Budget) -> bool:
    """True iff this engine can do something in the time, by the bounds that are known.

    Args:
        session: asked before the engine's first turn and between its turns.
        budget: of all turns together.
    """
    return session.bounds is not None and _held(session, budget) is not None


@dataclass(frozen=True, eq=False)
class _Held:
    """A search that goes on turn by turn; there is none before the first turn.

    `resumed` says that it is to go on where an earlier run was.
    """

    problem: SplitProblem
    bounds: NetworkBounds
    outlook: Outlook
    resumed: bool = False
    search: LayeredSearch | None = None
    tally: Tally = field(default_factory=Tally)

    def arrays(self, session: Session, options: LayeredOptions) -> Arrays:
        """What does not change in a turn."""
        return {
            "clauses": self.problem.clauses,
            "asked": question(session.query, options),
            "told": np.array([self.tally.counts.get(name, 0) for name in COUNTED]),
            "spent": np.array([self.outlook.seconds]),
            **pack_bounds(self.bounds),
        }


def _held(session: Session, budget: Budget) -> _Held | None:
    """What is held; prepared when it is first asked for; `None` where nothing can be done."""
    if _NAME not in session.held:
        found = _resumed(session) or _prepared(session, budget)
        if found is None and budget.expired:  # a later turn may have the time for it
            return None
        session.held[_NAME] = found
    held = session.held[_NAME]
    return held if isinstance(held, _Held) else None


def _resumed(session: Session) -> _Held | None:
    """What an earlier run held; `None` if it held nothing, or that is refused."""
    kept = session.shelf.tree(_NAME)
    if not kept:
        return None
    try:
        bounds, clauses = unpack_bounds(kept), kept["clauses"].astype(np.int64)
        problem = split_problem(session.query, bounds, clauses)
        if problem is None or not len(clauses):
            raise ValueError("the tree is one of another network")
        outlook = Outlook(1, float(session.clause_lower[clauses].min()), float(kept["spent"][0]))
        told = dict(zip(COUNTED, map(int, kept["told"]), strict=True))
    except (ValueError, KeyError, IndexError) as error:
        _refuse(session, error)
        return None
    return _Held(problem, bounds, outlook, resumed=True, tally=Tally(told))


def _refuse(session: Session, error: Exception) -> None:
    session.shelf.refuse(f"snapshot: {error}")
    session.note(session.shelf.refusal)


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
    return _Held(problem, bounds, Outlook(1, float(session.clause_lower[clauses].min())))


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
