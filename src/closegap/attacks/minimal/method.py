"""What an attack of least distance is: how lanes begin, look and move; and the loop."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

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
    method: MinimalMethod[S], lanes: Lanes, budget: Budget, random: torch.Generator
) -> Best:
    """Run all lanes side by side; the nearest broken point each of them saw.

    Raises:
        DescentInterrupted: in place of a `KeyboardInterrupt`.
    """
    lanes = replace(lanes, budget=budget)
    best = Best.none(lanes)
    try:
        state: S | None = method.init(lanes, random)
        for _ in range(method.steps):
            if state is None or budget.expired or not bool((best.distances > 0).any()):
                break
            seen = method.look(lanes, state)
            best = _with(lanes, best, seen.points, seen.margins, method.norm)
            state = method.step(lanes, state, seen, best)
    except KeyboardInterrupt as stop:
        raise DescentInterrupted(best) from stop
    return best


def _with(lanes: Lanes, best: Best, points: Tensor, seen: Tensor, norm: float) -> Best:
    return best.updated(points, sizes(lanes, points - lanes.images, norm), seen < -lanes.slack)
