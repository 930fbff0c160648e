"""A first look at a property of many cases: who is all but broken, who is proved at once.

Where each case has a fraction of a second, its attacks alone take longer than that, and linear
bounds would have been enough. One attack on all cases side by side says in which order to go
through them; linear bounds prove what they can; what is left shares the time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from closegap.core.budget import Budget
from closegap.core.verdict import Verdict
from closegap.evaluate.work import WorkOptions, default_solver

if TYPE_CHECKING:
    from closegap.specs.query import Query
    from closegap.strategy.result import Result

__all__ = ["FirstLook", "first_look"]

#: Looked at are properties of so many cases, where one has less than so many seconds.
_MANY, _SHORT = 8, 1.0
#: Of the time, for the attack on all cases, and for linear bounds; the latter end where of the
#: cases so far, a few at least, fewer than half were proved.
_ATTACK_SHARE, _BOUND_SHARE, _FEW = 0.1, 0.8, 4
_ENGINES = ("clean", "crown")


@dataclass(frozen=True, eq=False)
class FirstLook:
    """What it showed.

    Attributes:
        order: all cases that were not proved, the most nearly broken first.
        proved: results of the others, by their numbers.
    """

    order: tuple[int, ...]
    proved: dict[int, Result] = field(default_factory=dict)


def first_look(cases: Sequence[Query], options: WorkOptions, seconds: float) -> FirstLook:
    """The order of cases, and those that are proved at once; nothing of either where few are asked.

    Args:
        cases: of one property and one network.
        options: how they will be answered; who chooses the engines is not second-guessed.
        seconds: for all of them.
    """
    chosen = options.engines or options.optimum or options.solver is not default_solver
    if chosen or len(cases) < _MANY or seconds / len(cases) >= _SHORT:
        return FirstLook(tuple(range(len(cases))))
    margins = _margins(cases, Budget.of_seconds(_ATTACK_SHARE * seconds, seed=options.seed))
    order = sorted(range(len(cases)), key=margins.__getitem__)
    quick = replace(options, engines=_ENGINES, trees=None)
    proved: dict[int, Result] = {}
    began = time.monotonic()
    whole = [number for number in reversed(order) if margins[number] > 0]
    for done, number in enumerate(whole):
        left = _BOUND_SHARE * seconds - (time.monotonic() - began)
        if left <= 0 or 2 * len(proved) < done >= _FEW:
            break
        result = quick.ask(cases[number], left, "")
        if result.verdict is Verdict.VERIFIED:
            proved[number] = result
    return FirstLook(tuple(number for number in order if number not in proved), proved)


def _margins(cases: Sequence[Query], budget: Budget) -> list[float]:
    """The least margin that one attack finds of each case; infinity where it did not come to it."""
    import torch

    from closegap.attacks.gradient.descent import Descent
    from closegap.attacks.gradient.loop import run
    from closegap.runtime.cache import compiled

    network = compiled(cases[0].network, torch.float32)
    outcomes = run(network, cases, Descent("ods-pgd", steps=15, restarts=2, diversify=3), budget)
    return [math.inf if math.isnan(o.margin) else o.margin for o in outcomes]
