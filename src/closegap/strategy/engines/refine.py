"""Branch and bound on the bounds of single neurons, for the trees that follow."""

from __future__ import annotations

from dataclasses import dataclass, field

from closegap.core.budget import Budget
from closegap.strategy.engines.crown import prove_open_rows
from closegap.strategy.session import Session
from closegap.strategy.shared_tree import uproot
from closegap.verify.incomplete import AlphaOptions
from closegap.verify.refinement.refine import RefineOptions, refine, suits_refinement

__all__ = ["RefineEngine"]

_NAME = "refine"
#: Searches that rest on bounds of the root; they begin again with tighter ones.
_TREES = ("layered", "bab")


@dataclass(frozen=True)
class RefineEngine:
    """Decides neurons of dense ReLU chains, layer by layer, and tries the property's rows.

    Trees that are under way are given up for the tighter bounds: how long they would have taken is
    a guess, and with these bounds they take a fraction of it.

    Attributes:
        options: how to search.
        rows: climbing on the property's rows.
        least: trees go on where a smaller share of the undecided neurons was decided.
        first_share: of the time, before any tree began: the engines after it get the rest.
    """

    options: RefineOptions = field(default_factory=RefineOptions)
    rows: AlphaOptions = field(default_factory=AlphaOptions)
    least: float = 0.02
    first_share: float = 0.4

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`; does nothing where the network or the region is of another kind."""
        known = session.bounds
        if known is None or not suits_refinement(session.query):
            return
        begun = any(name in session.outlook for name in _TREES)
        spend = budget if begun else budget.within(self.first_share * budget.remaining)
        found = refine(session.query, known, spend, self.options)
        if found is None:
            return
        session.learn_bounds(found.bounds)
        session.count(nodes=found.leaves, refined=found.decided)
        prove_open_rows(session, budget, self.rows.final, _NAME)
        if found.decided >= self.least * (found.decided + found.undecided):
            _begin_again(session)


def _begin_again(session: Session) -> None:
    for name in _TREES:
        if not session.shelf.tree(name):  # a tree of an earlier run goes on
            if name == "bab":
                uproot(session)
            session.held.pop(name, None)
            session.shelf.trees.pop(name, None)
            session.outlook.pop(name, None)
