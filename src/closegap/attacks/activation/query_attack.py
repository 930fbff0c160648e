"""Attacks that take one query at a time, in their own way; one call for every kind of attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from closegap.attacks.activation.harvest import Harvest
from closegap.attacks.gradient.ensemble import Ensemble, run_ensemble
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.method import Method
from closegap.attacks.outcome import AttackInterrupted, AttackOutcome
from closegap.core.budget import Budget
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query

__all__ = ["Attack", "QueryAttack", "run_attack"]


@runtime_checkable
class QueryAttack(Protocol):
    """An attack on a single query.

    Attributes:
        name: as users write it.
    """

    @property
    def name(self) -> str:
        """As users write it."""
        ...

    def attack_query(self, query: Query, budget: Budget) -> AttackOutcome:
        """Search until the property breaks, the budget ends or nothing is left to try."""
        ...


Attack: TypeAlias = Method[Any] | Ensemble | QueryAttack


def run_attack(
    network: TorchNetwork, queries: Sequence[Query], attack: Attack, budget: Budget
) -> tuple[AttackOutcome, ...]:
    """One outcome a query, in order; attacks on single queries share the time equally.

    Args:
        network: that the queries are about, for gradient attacks.
        queries: any mix of norms and properties.
        attack: of any kind.
        budget: deadline and seed.

    Raises:
        AttackInterrupted: Ctrl-C, with what was found until then of every query.
    """
    if isinstance(attack, Ensemble):
        return run_ensemble(network, queries, attack, budget)
    if not isinstance(attack, QueryAttack):
        return run(network, queries, attack, budget)
    outcomes: list[AttackOutcome] = []
    for place, query in enumerate(queries):
        share = budget.within(budget.remaining / (len(queries) - place))
        try:
            outcomes.append(attack.attack_query(query, share))
        except AttackInterrupted as stop:
            left = queries[place + 1 :]
            nothing = [Harvest(query).outcome(attack.name, finished=False) for query in left]
            raise AttackInterrupted([*outcomes, *stop.outcomes, *nothing]) from stop
    return tuple(outcomes)
