"""The tree of a session's clauses, which the attack's beam and branch and bound grow in turn."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.specs.query import Query
from closegap.strategy.session import Session
from closegap.strategy.tally import Tally
from closegap.verify.bab.problem import split_problem
from closegap.verify.bab.shared import SharedTree

__all__ = ["HeldTree", "held_tree", "hold", "plant", "uproot"]

_NAME, _SEARCH = "tree", "bab"


@dataclass(frozen=True, eq=False)
class HeldTree:
    """What a session holds of its tree.

    Attributes:
        query: on the network whose units are split.
        shared: problem, bounds, tree.
        tally: what the session was told of it.
    """

    query: Query
    shared: SharedTree
    tally: Tally = field(default_factory=Tally)

    @property
    def clauses(self) -> NDArray[np.int64]:
        """The clause of each root."""
        return self.shared.problem.clauses


def held_tree(session: Session) -> HeldTree | None:
    """The session's tree, if there is one.

    One that only an attack has grown is given up for bounds that leave fewer units.
    """
    held = session.held.get(_NAME)
    if not isinstance(held, HeldTree):
        return None
    known, own = session.bounds, held.shared.bounds
    begun = session.held.get(_SEARCH) is not None or held.query is not session.query
    if not begun and known is not None and known is not own and known.undecided < own.undecided:
        return None
    return held


def plant(
    session: Session,
    query: Query,
    bounds: NetworkBounds,
    clauses: NDArray[np.int64],
    budget: Budget | None = None,
) -> HeldTree | None:
    """Give the session a tree; `None` where the network has activations that cannot be split.

    Args:
        session: whose.
        query: on the network whose units are split.
        bounds: of its activations' inputs.
        clauses: one for each root.
        budget: see `split_problem`; where it ends meanwhile the tree is not kept.
    """
    problem = split_problem(query, bounds, clauses, budget=budget)
    if problem is None:
        return None
    held = HeldTree(query, SharedTree(problem, bounds))
    if budget is None or not budget.expired:
        hold(session, held)
    return held


def hold(session: Session, held: HeldTree) -> None:
    """Let this be the session's tree."""
    session.held[_NAME] = held


def uproot(session: Session) -> None:
    """Forget the tree."""
    session.held.pop(_NAME, None)
