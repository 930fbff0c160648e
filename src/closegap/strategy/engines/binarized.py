"""Binarized networks: search among signs, then exact branch and bound over the first layer's."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from closegap.attacks.binarized.bit_search import BitSearch
from closegap.core.budget import Budget
from closegap.graph.ops import Sign
from closegap.runtime.cache import binarized
from closegap.specs.region import Ball
from closegap.strategy.session import Session
from closegap.verify.binarized.tree import SignSearch

__all__ = ["BinarizedEngine"]


@dataclass(frozen=True)
class BinarizedEngine:
    """Does nothing on other networks.

    Attributes:
        attack: the search among signs.
        attack_share: of the time that is left, for it.
        tree_share: of the time that is left then, for branch and bound.
        most_sums: of a layer, above which branch and bound is not tried.
    """

    attack: BitSearch = field(default_factory=BitSearch)
    attack_share: float = 0.1
    tree_share: float = 0.5
    most_sums: int = 4096

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
        network = form.network
        layers = [network.first.patches, *(layer.patches for layer in network.hidden)]
        sums = max(patches.sums for patches in layers)
        pools = network.first.thresholds.taken.shape[1] > 1
        if session.decided or isinstance(query.region, Ball) or pools or sums > self.most_sums:
            return
        shape = query.network.input_shape
        search = SignSearch(
            query,
            network,
            np.sort(session.open_clauses),
            lambda point: session.offer(point.reshape(1, *shape), "binarized"),
        )
        open_ = np.sort(session.open_clauses)
        search.run(budget.within(self.tree_share * budget.remaining))
        session.count(sign_nodes=search.nodes)
        for clause in open_:
            session.prove_clause(int(clause), search.lower, "binarized")
