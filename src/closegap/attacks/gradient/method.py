"""What an attack is: how lanes begin, what they lower, and how they move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.problem import Problem

__all__ = ["EVERY_CLAUSE", "Evaluation", "Method", "Objective", "State", "Viewed"]

#: As `targets` of a method: more clauses than any property has.
EVERY_CLAUSE = 10**9

Objective: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Viewed:
    """An objective of the outputs at transformed points; margins are still those of the points.

    Attributes:
        view: points `[B, L, D]` to the points that the network sees; differentiable.
        loss: outputs `[B, L, C]` there to losses `[B, L]`.
    """

    view: Callable[[Tensor], Tensor]
    loss: Objective


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The network at the lanes' points.

    Attributes:
        outputs: the network's.
        margins: the property's.
        loss: what the lane lowers; the margins where the method asked for no gradient.
        gradient: of the loss, by the points; zeros where the method asked for none.
    """

    outputs: Float[Tensor, "B L C"]
    margins: Float[Tensor, "B L"]
    loss: Float[Tensor, "B L"]
    gradient: Float[Tensor, "B L D"]


@runtime_checkable
class State(Protocol):
    """A frozen dataclass; its tensors lead with the query axis, so solved queries can be cut."""

    @property
    def points(self) -> Tensor:
        """`[B, L, D]`, to be evaluated next; only members of the regions become candidates."""
        ...


S = TypeVar("S", bound=State)


@runtime_checkable
class Method(Protocol[S]):
    """An attack: how lanes begin, what they lower and how they move.

    Attributes:
        name: as users write it.
        steps: how often `step` is called.
        restarts: lanes for each attacked clause.
        targets: how many clauses get lanes of their own, those of least margin first; 0 gives
            lanes that attack whichever clause is nearest.
    """

    @property
    def name(self) -> str:
        """As users write it."""
        ...

    @property
    def steps(self) -> int:
        """How often `step` is called."""
        ...

    @property
    def restarts(self) -> int:
        """Lanes for each attacked clause."""
        ...

    @property
    def targets(self) -> int:
        """How many clauses get lanes of their own."""
        ...

    def init(self, problem: Problem, random: torch.Generator) -> S:
        """The first state."""
        ...

    def objective(self, problem: Problem, state: S) -> Objective | Viewed | None:
        """Outputs `[B, L, C]` to losses `[B, L]`; `None` when no gradient is wanted."""
        ...

    def step(self, problem: Problem, state: S, seen: Evaluation, random: torch.Generator) -> S:
        """The next state."""
        ...
