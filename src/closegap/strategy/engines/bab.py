"""Branch and bound over activation constraints."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.core.errors import SolverError
from closegap.graph.network import Network
from closegap.graph.ops import Max
from closegap.graph.transform import max_to_relu
from closegap.specs.query import Query
from closegap.strategy.continuation import keeper, pack_bounds, unpack_bounds
from closegap.strategy.outlook import Outlook
from closegap.strategy.session import Session
from closegap.strategy.shared_tree import HeldTree, held_tree, hold, plant, uproot
from closegap.strategy.shelf import Arrays
from closegap.strategy.tally import COUNTED, Tally
from closegap.verify.bab.options import BranchOptions
from closegap.verify.bab.search import BranchAndBound
from closegap.verify.bab.small import SmallPrograms
from closegap.verify.bab.units import is_hinge
from closegap.verify.incomplete import LinearVerifier

__all__ = ["BranchEngine"]

_STUCK = (
    "bab: subdomains with nothing left to split are not proved: ties, pieces too narrow to cut, "
    "or linear programs without a bound"
)


@dataclass(frozen=True)
class BranchEngine:
    """Splits unstable units until every subdomain of every open clause is proved.

    Attributes:
        options: how to search.
        smooth_share: of the time that is left where some units are no ReLUs: there a tree may need
            many cuts of one unit, and the engines after it get the rest.
    """

    options: BranchOptions = field(default_factory=BranchOptions)
    smooth_share: float = 0.5

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        if not len(session.open_clauses):
            return
        known = self._held(session) or self._resumed(session) or self._known(session, budget)
        if budget.expired:  # the first bounds of a large network take seconds
            return
        if known is None:
            session.note("bab: the network has activations it cannot split")
            return
        search, session.held["bab"] = known.search, known
        search.settle(np.setdiff1d(known.tree.clauses, session.open_clauses))
        tree, fixed = known.tree, known.arrays
        given = session.held.get("rows", [])
        assert isinstance(given, list)
        search.give([rows for rows in given if rows.clause in session.open_clauses])
        share = 1.0 if _has_hinges_only(tree.query.network) else self.smooth_share
        spend = budget.within(share * budget.remaining)
        outcome = known.outlook.timed(lambda: search.run(spend, keeper(session, "bab", fixed)))
        session.shelf.trees["bab"] = lambda: {**search.state(), **known.arrays}
        count = outcome.accounting
        session.outlook["bab"] = known.outlook.by_bound(count.created, float(outcome.lower.min()))
        tree.tally.tell(session, "bab", count, outcome.seconds)
        if not count.balanced:
            raise SolverError("branch and bound lost a subdomain: nothing it proved is used")
        if count.stuck:
            session.note(_STUCK)
        if outcome.limit is not None:
            session.limit = outcome.limit
        for clause, lower in zip(tree.clauses, outcome.lower, strict=True):
            session.prove_tree(int(clause), float(lower), "bab")

    def _held(self, session: Session) -> _Prepared | None:
        """The search of an earlier turn."""
        held = session.held.get("bab")
        return held if isinstance(held, _Prepared) else None

    def _known(self, session: Session, budget: Budget) -> _Prepared | None:
        """A search of the session's tree, which an attack may have grown already."""
        tree = held_tree(session)
        if tree is None:
            query, bounds = _splittable(session, budget)
            tree = plant(session, query, bounds, np.sort(session.open_clauses), budget)
        if tree is None:
            return None
        session.count(resumed=0)
        points = (
            [c.point for c in session.pool.best(_NEAR)] if self.options.branching.guided else []
        )
        shape = session.query.network.input_shape
        near = np.stack(points) if points else np.zeros((0, *shape), np.float32)
        return self._prepared(session, tree, near)

    def _resumed(self, session: Session) -> _Prepared | None:
        """The search that an earlier run was in; `None` if there is none, or it is refused."""
        kept = session.shelf.tree("bab")
        if not kept:
            return None
        try:
            query, bounds = _on_splittable(session.query), unpack_bounds(kept)
            clauses, near = kept["clauses"].astype(np.int64), kept["near"].astype(np.float32)
            tree = plant(session, query, bounds, clauses)
            if tree is None:
                return None
            found = self._prepared(session, tree, near)
            found.search.resume(kept)
            told = Tally(
                dict(zip(COUNTED, map(int, kept.get("told", [0] * len(COUNTED))), strict=True))
            )
            shared = replace(tree.shared, tree=found.search.tree)
            found = replace(found, tree=replace(tree, shared=shared, tally=told))
            hold(session, found.tree)
            session.count(resumed=len(shared.tree))
        except (ValueError, KeyError, IndexError) as error:
            uproot(session)
            session.shelf.refuse(f"snapshot: {error}")
            session.note(session.shelf.refusal)
            return None
        return found

    def _prepared(self, session: Session, tree: HeldTree, near: NDArray[np.float32]) -> _Prepared:
        search = BranchAndBound(
            tree.shared.problem,
            self.options,
            lambda points: session.offer(points, "bab"),
            near if len(near) else None,
            tree.shared.tree,
            SmallPrograms(tree.query, tree.shared.problem, tree.shared.bounds, self.options.small),
        )
        lower = session.clause_lower[tree.clauses]
        return _Prepared(tree, near, search, Outlook(len(lower), float(lower.min())))


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A search, the tree it grows, and the points that guide it."""

    tree: HeldTree
    near: NDArray[np.float32]
    search: BranchAndBound
    outlook: Outlook

    @property
    def arrays(self) -> Arrays:
        """What does not change in a turn."""
        told = [self.tree.tally.counts.get(name, 0) for name in COUNTED]
        return {
            "clauses": self.tree.clauses,
            "near": self.near,
            "told": np.array(told),
            **pack_bounds(self.tree.shared.bounds),
        }


#: So many of the best candidates guide the choice of units.
_NEAR = 50


def _splittable(session: Session, budget: Budget) -> tuple[Query, NetworkBounds]:
    """The query on a network without max pooling, and its activation bounds."""
    query = _on_splittable(session.query)
    if query is not session.query:
        return query, LinearVerifier(query).activations(budget)
    bounds = session.bounds
    if bounds is None:
        bounds = session.linear.activations(budget)
        session.learn_bounds(bounds)
    return query, bounds


def _has_hinges_only(network: Network) -> bool:
    return all(is_hinge(network.nodes[i].op) for i in network.activations)


def _on_splittable(query: Query) -> Query:
    network = _without_max(query.network)
    return query if network is query.network else replace(query, network=network)


def _without_max(network: Network) -> Network:
    pools = any(isinstance(node.op, Max) for node in network.nodes)
    return max_to_relu(network) if pools else network
