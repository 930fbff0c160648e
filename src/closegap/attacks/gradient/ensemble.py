"""Several attacks in order, each on the queries that the ones before left standing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.method import Method
from closegap.attacks.outcome import AttackInterrupted, AttackOutcome, merge_outcomes
from closegap.core.budget import Budget
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query

__all__ = ["Ensemble", "run_ensemble"]


@dataclass(frozen=True)
class Ensemble:
    """An attack made of attacks.

    Attributes:
        name: as users write it.
        methods: in order.
    """

    name: str
    methods: tuple[Method[Any], ...]


def run_ensemble(
    network: TorchNetwork, queries: Sequence[Query], ensemble: Ensemble, budget: Budget
) -> tuple[AttackOutcome, ...]:
    """One outcome a query, in order; an expired budget gives empty ones.

    Every method draws from another seed. Time is not shared out: where it ends, later methods are
    left out, and the outcomes say so.

    Args:
        network: that the queries are about.
        queries: any mix of norms and properties.
        ensemble: of at least one method.
        budget: deadline, seed and memory.

    Raises:
        AttackInterrupted: Ctrl-C, with what was found until then of every query.
    """
    found: list[list[AttackOutcome]] = [[] for _ in queries]
    standing = list(range(len(queries)))
    for number, method in enumerate(ensemble.methods):
        seeded = replace(budget, seed=budget.seed + number)
        try:
            outcomes = run(network, [queries[place] for place in standing], method, seeded)
        except AttackInterrupted as stop:
            _file(found, standing, stop.outcomes)
            raise AttackInterrupted([merge_outcomes(o, ensemble.name) for o in found]) from stop
        _file(found, standing, outcomes)
        standing = [
            place
            for place in standing
            if not queries[place].prop.broken_by(found[place][-1].margin)
        ]
    return tuple(merge_outcomes(outcomes, ensemble.name) for outcomes in found)


def _file(
    found: list[list[AttackOutcome]], standing: list[int], outcomes: Sequence[AttackOutcome]
) -> None:
    for place, outcome in zip(standing, outcomes, strict=True):
        found[place].append(outcome)
