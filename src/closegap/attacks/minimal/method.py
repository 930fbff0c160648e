"""What an attack of least distance is: how lanes begin, look and move; and the loop."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

import torch

from closegap.attacks.minimal.lanes import Best, Lanes, Seen, sizes
from closegap.core.budget import Budget

__all__ = ["DescentInterrupted", "MinimalMethod", "descend"]

S = TypeVar("S")


@runtime_checkable
class MinimalMethod(Protocol[S]):
    """An attack that looks for a near broken point.

    Attributes:
        name: as users write it.
        norm: what it minimises; 0 counts pixels.
        steps: how often `step` is called at most.
    """

    @property
    def name(self) -> str:
        """As users write it."""
        ...

    @property
    def norm(self) -> float:
        """What it minimises; 0 counts pixels."""
        ...

    @property
    def steps(self) -> int:
        """How often `step` is called at most."""
        ...

    def init(self, lanes: Lanes, random: torch.Generator) -> S:
        """The first state, a frozen record."""
        ...

    def look(self, lanes: Lanes, state: S) -> Seen:
        """The network at the state's candidates."""
        ...

    def step(self, lanes: Lanes, state: S, seen: Seen, best: Best) -> S | None:
        """The next state; `None` where every lane is at its end."""
        ...


class DescentInterrupted(KeyboardInterrupt):
    """Ctrl-C during a descent.

    Attributes:
        best: what the lanes saw until then.
    """

    def __init__(self, best: Best) -> None:
        super().__init__()
        self.best = best


def descend(
    method: MinimalMethod[S],
    lanes: Lanes,
    budget: Budget,
    random: torch.Generator,
    *,
    most: int | None = None,
) -> Best:
    """Run all lanes side by side; the nearest broken point each of them saw.

    Args:
        method: how they move.
        lanes: the searches.
        budget: deadline.
        random: of what is chosen at random.
        most: steps after which a trial ends; `None` for all of them.

    Raises:
        DescentInterrupted: in place of a `KeyboardInterrupt`.
    """
    lanes = replace(lanes, budget=budget)
    best = Best.none(lanes)
    try:
        state: S | None = method.init(lanes, random)
        for _ in range(method.steps if most is None else most):
            if state is None or budget.expired or not bool((best.distances > 0).any()):
                break
            seen = method.look(lanes, state)
            best = _with(lanes, best, seen, method.norm)
            state = method.step(lanes, state, seen, best)
    except KeyboardInterrupt as stop:
        raise DescentInterrupted(best) from stop
    return best


def _with(lanes: Lanes, best: Best, seen: Seen, norm: float) -> Best:
    """With the nearest of each lane's candidates that are broken."""
    count = len(lanes.query)
    points = seen.points.reshape(count, -1, seen.points.shape[1])
    offset = (points - lanes.images[:, None]).flatten(0, 1)
    far = sizes(lanes, offset, norm).reshape(count, -1)
    broken = seen.margins.reshape(count, -1) < -lanes.slack[:, None]
    far = torch.where(broken, far, math.inf)
    least, place = far.min(dim=1)
    which = torch.arange(count, device=place.device)
    return best.updated(points[which, place], least, least.isfinite())
