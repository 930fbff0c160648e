"""DeepFool: go to the nearest of the classes' planes, again and again (Moosavi-Dezfooli, 2016)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.hyperplane import least_in_box
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.minimal.lanes import Best, Lanes, Seen, margins, planes

__all__ = ["DeepFoolSearch", "DeepFoolState", "deepfool"]


@dataclass(frozen=True, eq=False)
class DeepFoolState:
    """Where the lanes are.

    Attributes:
        bare: the starts and the displacements so far.
        points: the same, overshot; to be evaluated next.
    """

    bare: Float[Tensor, "L D"]
    points: Float[Tensor, "L D"]


@dataclass(frozen=True)
class DeepFoolSearch:
    """Replace each class's margin by its plane, and go to the nearest of them.

    The displacement is the least inside [0, 1]^D, so on an affine network one step is exact. A lane
    ends where it is broken.

    Attributes:
        norm: 1, 2 or infinity.
        steps: at most.
        overshoot: of the whole displacement (eta).

    Source: Moosavi-Dezfooli, Fawzi, Frossard, DeepFool: a simple and accurate method to fool deep
        neural networks, CVPR 2016, algorithm 2; the box is ours.
    """

    name: str = "deepfool"
    norm: float = 2.0
    steps: int = 50
    overshoot: float = 0.02

    def init(self, lanes: Lanes, random: torch.Generator) -> DeepFoolState:
        """The starts."""
        return DeepFoolState(lanes.starts, lanes.starts)

    def look(self, lanes: Lanes, state: DeepFoolState) -> Seen:
        """Margins only; the planes are made where a step needs them."""
        seen = margins(lanes, state.points)
        return Seen(state.points, seen, seen, state.points)

    def step(
        self, lanes: Lanes, state: DeepFoolState, seen: Seen, best: Best
    ) -> DeepFoolState | None:
        """To the nearest plane, of those lanes that are not broken."""
        if bool(best.found.all()):
            return None
        move = self._displacement(lanes, state.points)
        bare = torch.where(best.found[:, None], state.bare, state.bare + move)
        if torch.equal(bare, state.bare):
            return None
        points = lanes.images + (1 + self.overshoot) * (bare - lanes.images)
        return DeepFoolState(bare, points.clamp(0.0, 1.0))

    def _displacement(self, lanes: Lanes, points: Float[Tensor, "L D"]) -> Float[Tensor, "L D"]:
        gaps, normals = planes(lanes, points)
        room = torch.where(normals > 0, points[:, None], 1 - points[:, None])
        # A little beyond the plane, or points on it would never count as broken.
        wanted = (gaps + 2 * lanes.slack[:, None]).clamp(min=0.0)
        least = least_in_box(self.norm, normals.abs(), room, wanted)
        # Where the box ends before the plane, the class is out of reach.
        reached = (normals.abs() * room).sum(dim=2) >= wanted
        length = torch.linalg.vector_norm(least, ord=self.norm, dim=2)
        length = torch.where(reached & lanes.wanted, length, math.inf)
        nearest = torch.where(
            length.isfinite().any(dim=1),
            length.argmin(dim=1),
            gaps.masked_fill(~lanes.wanted, math.inf).argmin(dim=1),
        )
        row = torch.arange(len(points), device=points.device)
        return -normals[row, nearest].sign() * least[row, nearest]


def deepfool(options: AttackOptions, norm: float) -> DeepFoolSearch:
    """With so many steps, in this norm."""
    return DeepFoolSearch(norm=norm, steps=options.steps or DeepFoolSearch.steps)
