"""The cheap attacks of a cascade: stages in order of cost, chosen to fit the query."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from closegap.attacks.gradient.descent import Descent
from closegap.attacks.gradient.hopping import Hopping
from closegap.attacks.gradient.loop import run
from closegap.attacks.gradient.losses import GamaLoss
from closegap.attacks.gradient.method import EVERY_CLAUSE, Method
from closegap.attacks.gradient.sampling import Sampling
from closegap.attacks.gradient.starts import CenterStart
from closegap.attacks.outcome import AttackInterrupted, AttackOutcome, merge_outcomes
from closegap.attacks.pool import CandidatePool
from closegap.core.budget import Budget
from closegap.core.numerics import float32_inward
from closegap.graph.ops import Sign
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.query import Query
from closegap.specs.region import bounding_box

__all__ = ["Stage", "free_inputs", "quick_stages", "run_stages", "short_stages", "thorough_stages"]

#: Up to so many inputs that are not fixed, random points find what gradients miss.
FEW_INPUTS = 20

#: Widths of straight-through derivatives, the one that breaks most first.
SIGN_WIDTHS = (0.5, 0.1, 2.0)

#: Networks with up to so many values get all lanes of a stage that many points are good for.
SMALL_NETWORK = 4000

#: Candidates that a cascade hands back.
KEPT = 256


@dataclass(frozen=True)
class Stage:
    """One method, and how it is run.

    Attributes:
        method: the attack.
        sign_width: of the straight-through derivative it sees signs through; `None` for true ones.
        resume: whether a hopping begins at the best candidates of the stages before.
    """

    method: Method[Any]
    sign_width: float | None = None
    resume: bool = False


def free_inputs(query: Query) -> int:
    """How many inputs the region does not fix."""
    box = bounding_box(query.region)
    low, high = float32_inward(box.lower, box.upper)
    return int(np.count_nonzero(low < high))


def quick_stages(query: Query) -> tuple[Stage, ...]:
    """Stages that take a fraction of a second on a small network, whatever they find."""
    if _has_signs(query):
        return tuple(
            Stage(Descent("ods-pgd", steps=25, targets=1, restarts=2, diversify=3), width)
            for width in SIGN_WIDTHS[:2]
        )
    center = Stage(Descent("pgd", start=CenterStart(), steps=10))
    if free_inputs(query) <= FEW_INPUTS:
        return (
            center,
            Stage(Sampling(steps=4, restarts=_affordable(query, 1024))),
            Stage(Descent("pgd", steps=25, restarts=_affordable(query, 64))),
        )
    return (
        center,
        Stage(Descent("ods-pgd", steps=30, restarts=6, diversify=5)),
        Stage(Descent("mt-pgd", steps=25, targets=4, restarts=1, diversify=3)),
    )


def short_stages(query: Query) -> tuple[Stage, ...]:
    """What is worth its time again and again where few inputs are free: another random search."""
    return (Stage(Sampling(steps=50, restarts=_affordable(query, 1024))),)


def thorough_stages(query: Query) -> tuple[Stage, ...]:
    """One round of stronger stages; run rounds for as long as the time allows."""
    if _has_signs(query):
        descents = [
            Stage(Descent("ods-pgd", steps=60, targets=3, restarts=2, diversify=5), width)
            for width in SIGN_WIDTHS
        ]
        return (*descents, Stage(Hopping(restarts=8, hops=5), SIGN_WIDTHS[0], resume=True))
    stages = [
        Stage(Descent("ods-pgd", steps=60, restarts=20, diversify=8)),
        Stage(Hopping(hops=10), resume=True),
        Stage(Descent("mt-pgd", steps=60, targets=EVERY_CLAUSE, restarts=2, diversify=5)),
        Stage(Hopping(hops=20), resume=True),
    ]
    if query.prop.label is not None:
        gama = Descent("gama-pgd", loss=GamaLoss(), steps=60, restarts=20, diversify=5)
        stages.insert(1, Stage(gama))
    if free_inputs(query) <= FEW_INPUTS:
        stages = [*short_stages(query), *stages]
    return tuple(stages)


def run_stages(
    network: TorchNetwork,
    query: Query,
    stages: Sequence[Stage],
    budget: Budget,
    *,
    rounds: int | None = 1,
    pool: CandidatePool | None = None,
) -> AttackOutcome:
    """Run stages in order until the property breaks, the rounds are done, or time is up.

    Args:
        network: of the query.
        query: what to break.
        stages: in order.
        budget: deadline and seed; every stage and round draws from another seed.
        rounds: how often to go through the stages; `None` until the deadline, which must be
            finite then.
        pool: receives every candidate, stage by stage.

    Returns:
        the best candidates of all stages.

    Raises:
        AttackInterrupted: Ctrl-C, with those found until then.
    """
    found = AttackOutcome.nothing("cascade", query.network.input_shape)
    turns = itertools.count() if rounds is None else range(rounds)
    for number, stage in enumerate(itertools.chain.from_iterable(stages for _ in turns)):
        method = stage.method
        if stage.resume and isinstance(method, Hopping) and len(found.points):
            method = method.resumed(found.points[: method.restarts])
        lens = network.with_sign_width(stage.sign_width)
        seeded = replace(budget, seed=budget.seed + number)
        try:
            (outcome,) = run(lens, [query], method, seeded)
        except AttackInterrupted as stop:
            merged = merge_outcomes([found, *stop.outcomes], "cascade").best_of(KEPT)
            raise AttackInterrupted([merged]) from stop
        found = merge_outcomes([found, outcome], "cascade").best_of(KEPT)
        if pool is not None:
            pool.add(outcome.points, outcome.margins, engine=outcome.method)
        if query.prop.broken_by(found.margin) or budget.expired:
            break
    return found


def _affordable(query: Query, lanes: int) -> int:
    """So many lanes, or fewer on a larger network; never fewer than 8."""
    values = sum(node.size for node in query.network.nodes)
    return max(8, min(lanes, lanes * SMALL_NETWORK // values))


def _has_signs(query: Query) -> bool:
    return any(isinstance(node.op, Sign) for node in query.network.nodes)
