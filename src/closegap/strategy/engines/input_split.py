"""Branch and bound over input boxes, where inputs are few."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from closegap.attacks.cascade import run_stages, short_stages
from closegap.bounds.chain import chain_nodes
from closegap.core.budget import Budget
from closegap.core.verdict import Reason
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.runtime.cache import compiled
from closegap.specs.query import Query
from closegap.specs.region import Ball
from closegap.strategy.session import Session
from closegap.verify.input_split import InputSplit, InputSplitOptions

__all__ = ["InputSplitEngine", "suits_boxes"]

#: Boxes of so many inputs do not multiply fast.
_FEW_INPUTS = 6
#: Attacks between boxes draw from other seeds than those before.
_SEEDS = 100


@dataclass(frozen=True)
class InputSplitEngine:
    """Splits the input box; right where few inputs are free, whatever the activations.

    Attributes:
        options: how to search.
        most_inputs: it does nothing where more inputs are free.
        share: of the time that is left; the engines after it get the rest.
        few_inputs: with more free inputs, or in a ball, boxes multiply fast: then only
        crowded_share: of the time, unless no other engine can split the network.
        attack_share: of the time that is left, for each attack between boxes.
    """

    options: InputSplitOptions = field(default_factory=InputSplitOptions)
    most_inputs: int = 20
    share: float = 0.8
    few_inputs: int = _FEW_INPUTS
    crowded_share: float = 0.2
    attack_share: float = 0.05

    def run(self, session: Session, budget: Budget) -> None:
        """See `Engine`."""
        free = _free_inputs(session)
        if not 0 < free <= self.most_inputs:
            return
        clauses = np.sort(session.open_clauses)
        if not len(clauses):
            return
        spend = budget.within(self._share(session.query, free) * budget.remaining)
        search = InputSplit(
            session.linear,
            clauses,
            self.options,
            lambda points: session.offer(points, "input-split"),
            lambda number: self._attacked(session, spend, number),
        )
        outcome = search.run(spend)
        session.count(nodes=outcome.boxes, boxes=outcome.boxes, open=outcome.open)
        session.deepest(outcome.depth)
        if outcome.full:
            session.limit = Reason.NODES
        for clause, lower in zip(clauses, outcome.lower, strict=True):
            session.prove_tree(int(clause), float(lower), "input-split")

    def _attacked(self, session: Session, spend: Budget, number: int) -> bool:
        seconds = self.attack_share * spend.remaining if spend.nodes is None else math.inf
        seeded = replace(spend.within(seconds), seed=spend.seed + _SEEDS + number)
        network = compiled(session.query.network, torch.float32)
        outcome = run_stages(network, session.query, short_stages(session.query), seeded)
        return session.offer(outcome.points, "input-split")

    def _share(self, query: Query, free: int) -> float:
        crowded = free > self.few_inputs or isinstance(query.region, Ball)
        helped = _has_hinges_only(query.network)
        return self.crowded_share if crowded and helped else self.share


def suits_boxes(session: Session) -> bool:
    """True iff the first boxes cost little and prove what CROWN would: chains, few free inputs."""
    if isinstance(session.query.region, Ball) or chain_nodes(session.query.network) is None:
        return False
    return 0 < _free_inputs(session) <= _FEW_INPUTS


def _free_inputs(session: Session) -> int:
    region = session.linear.exact_region
    return int((region.upper > region.lower).sum())


def _has_hinges_only(network: Network) -> bool:
    """Whether trees over activations split all of them exactly; maxima count as their ReLUs."""
    hinges = ops.Relu | ops.LeakyRelu | ops.Max
    return all(isinstance(network.nodes[i].op, hinges) for i in network.activations)
