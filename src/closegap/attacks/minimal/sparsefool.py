"""SparseFool: the boundary's plane, met by as few coordinates as can be (Modas et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.hyperplane import least_in_box
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.deepfool import DeepFoolSearch
from closegap.attacks.minimal.lanes import Best, Lanes, Seen, evaluate, margins
from closegap.attacks.minimal.method import descend

__all__ = ["SparseFoolSearch", "SparseFoolState", "sparsefool"]


@dataclass(frozen=True, eq=False)
class SparseFoolState:
    """Where the lanes are.

    Attributes:
        bare: the starts and the displacements so far.
        points: the same, overshot; to be evaluated next.
        random: handed on to the inner search.
    """

    bare: Float[Tensor, "L D"]
    points: Float[Tensor, "L D"]
    random: torch.Generator


@dataclass(frozen=True)
class SparseFoolSearch:
    """DeepFool finds a point of the boundary; its plane is met at the least l1 distance in the box.

    That least distance moves the steepest coordinate to the box's end, then the next.

    Attributes:
        steps: planes at most.
        beyond: how far behind the boundary the plane lies, in distances to it (lambda).
        overshoot: of the whole displacement (epsilon).
        inner: finds the boundary.

    Source: Modas, Moosavi-Dezfooli, Frossard, SparseFool: a few pixels make a big difference,
        CVPR 2019, algorithms 1 and 2.
    """

    name: str = "sparsefool"
    norm: float = 1.0
    steps: int = 20
    beyond: float = 3.0
    overshoot: float = 0.02
    inner: DeepFoolSearch = field(default_factory=DeepFoolSearch)

    def init(self, lanes: Lanes, random: torch.Generator) -> SparseFoolState:
        """The starts."""
        return SparseFoolState(lanes.starts, lanes.starts, random)

    def look(self, lanes: Lanes, state: SparseFoolState) -> Seen:
        """Margins only; gradients are taken at the boundary."""
        seen = margins(lanes, state.points)
        return Seen(state.points, seen, seen, state.points)

    def step(
        self, lanes: Lanes, state: SparseFoolState, seen: Seen, best: Best
    ) -> SparseFoolState | None:
        """To the plane, of those lanes that are not broken."""
        if bool(best.found.all()):
            return None
        around = replace(lanes, images=state.bare, starts=state.bare)
        rim = descend(self.inner, around, lanes.budget, state.random)
        beyond = state.bare + self.beyond * (rim.points - state.bare)
        normal = evaluate(lanes, rim.points).gradient
        gap = -(normal * (beyond - state.bare)).sum(dim=1).clamp(max=0.0)
        room = torch.where(normal > 0, state.bare, 1 - state.bare)
        least = least_in_box(1.0, normal.abs()[:, None], room[:, None], gap[:, None])[:, 0]
        moved = (state.bare - normal.sign() * least).clamp(0.0, 1.0)
        bare = torch.where((rim.found & ~best.found)[:, None], moved, state.bare)
        if torch.equal(bare, state.bare):
            return None
        points = lanes.images + (1 + self.overshoot) * (bare - lanes.images)
        return SparseFoolState(bare, points.clamp(0.0, 1.0), state.random)


def sparsefool(options: AttackOptions, norm: float) -> SparseFoolSearch:
    """With so many planes, in this norm."""
    return SparseFoolSearch(norm=norm, steps=options.steps or SparseFoolSearch.steps)
