"""FAB: walk along the linearised decision boundary, drawn to the center (Croce and Hein, 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.apgd import TARGETS
from closegap.attacks.gradient.hyperplane import gauge, to_hyperplane
from closegap.attacks.gradient.method import EVERY_CLAUSE, Evaluation, Objective
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import Problem, clause_margins, lane_margins
from closegap.attacks.images import ImageAttack
from closegap.attacks.projection import RegionBatch, sample, steepest
from closegap.core.numerics import TINY

__all__ = ["FAB", "FABT", "Boundary", "BoundaryState", "fab", "fab_targeted"]


@dataclass(frozen=True, eq=False)
class BoundaryState:
    """Where the lanes are.

    Attributes:
        points: to be evaluated next; not always members of the regions.
        taken: steps so far; even ones look for the boundary, odd ones pull back.
    """

    points: Float[Tensor, "B L D"]
    taken: int


@dataclass(frozen=True)
class Boundary:
    """Search the nearest point that breaks the property, inside the region or not.

    Where a lane is, its clause is replaced by a plane; the lane goes a little beyond that plane's
    nearest point, mixed with the point of the plane that is nearest to the region's center. From a
    point that breaks the property it is pulled back to the center. Distances are those of the
    region's own gauge: for the box around an image that [0, 1] cut, each pixel's half-width.

    Attributes:
        name: as users write it.
        rounds: steps to the boundary.
        restarts: the first lane begins at the center, others at random, half a radius away.
        targets: clauses with lanes of their own.
        together: whether the lanes of a restart stay together and take the nearest plane of all
            their clauses, as in the untargeted attack.
        most_bias: greatest share of the center's own plane point (alpha_max).
        overshoot: how far beyond a plane to go (eta).
        pull: what is left of the distance to the center after pulling back (beta).
        reach: radii from the center that no lane leaves.
    """

    name: str
    rounds: int = 100
    restarts: int = 1
    targets: int = TARGETS
    together: bool = False
    most_bias: float = 0.1
    overshoot: float = 1.05
    pull: float = 0.9
    reach: float = 4.0

    @property
    def steps(self) -> int:
        """Two a round: to the boundary, and back."""
        return 2 * self.rounds

    def init(self, problem: Problem, random: torch.Generator) -> BoundaryState:
        """Centers, and random points around them."""
        center = problem.regions.center[:, None]
        lanes = problem.target.shape[1]
        restart = torch.arange(lanes, device=center.device) // self._group(problem)
        drawn = sample(problem.regions, lanes, random)
        drawn = drawn[:, restart] if self.together else drawn
        away = 0.5 * (restart > 0)[:, None]
        return BoundaryState(center + away * (drawn - center), 0)

    def objective(self, problem: Problem, state: BoundaryState) -> Objective | None:
        """The margin of the lane's clause; none where a step only pulls back."""
        if state.taken % 2:
            return None
        return lambda outputs: lane_margins(problem, clause_margins(problem, outputs))

    def step(
        self, problem: Problem, state: BoundaryState, seen: Evaluation, random: torch.Generator
    ) -> BoundaryState:
        """To the boundary; or, from a point that breaks the property, back."""
        center = problem.regions.center[:, None]
        if state.taken % 2:
            broken = problem.broken(seen.margins)[..., None]
            pulled = center + self.pull * (state.points - center)
            points = torch.where(broken, pulled, state.points)
        else:
            points = self._toward_boundary(problem, state.points, seen)
        return BoundaryState(points, state.taken + 1)

    def _toward_boundary(
        self, problem: Problem, points: Float[Tensor, "B L D"], seen: Evaluation
    ) -> Float[Tensor, "B L D"]:
        regions = problem.regions
        center = regions.center[:, None]
        if self.together:
            seen = _nearest_plane(regions, seen, self._group(problem))
        gap = -seen.loss.float()
        from_center = gap + (seen.gradient * (points - center)).sum(dim=2)
        start = center.expand_as(points)
        own = to_hyperplane(regions, points, seen.gradient, gap)
        back = to_hyperplane(regions, start, seen.gradient, from_center)
        own_size, back_size = gauge(regions, center + own), gauge(regions, center + back)
        bias = (own_size / (own_size + back_size).clamp(min=TINY)).clamp(max=self.most_bias)
        bias = bias[..., None]
        mixed = (1 - bias) * (points + self.overshoot * own)
        moved = mixed + bias * (center + self.overshoot * back)
        moved = torch.where(moved.isfinite(), moved, points)
        return self._limited(regions, moved)

    def _limited(
        self, regions: RegionBatch, points: Float[Tensor, "B L D"]
    ) -> Float[Tensor, "B L D"]:
        """Inside the ball's box; or, for a box, inside the box that is `reach` times as wide."""
        center, lower, upper = (r[:, None] for r in (regions.center, regions.lower, regions.upper))
        if regions.norm == math.inf:
            half = self.reach * regions.unit[:, None]
            lower = torch.minimum(lower, center - half)
            upper = torch.maximum(upper, center + half)
        return torch.maximum(torch.minimum(points, upper), lower)

    def _group(self, problem: Problem) -> int:
        """How many lanes are one restart: one a clause, or fewer where memory cut it short."""
        return min(self.targets, problem.clauses, problem.target.shape[1])


def _nearest_plane(regions: RegionBatch, seen: Evaluation, group: int) -> Evaluation:
    """Every lane gets the loss and gradient of the nearest plane among its group's.

    Lanes of a group stand at one point; a last group may be smaller.
    """
    # The steepest displacement of a region spans its radius, so this is the distance in radii.
    steep = steepest(regions, seen.gradient)
    slope = -(seen.gradient * steep).sum(dim=2)
    distance = (seen.loss.abs() / slope.clamp(min=TINY)).nan_to_num(nan=torch.inf)
    lanes = distance.shape[1]
    padded = torch.nn.functional.pad(distance, (0, -lanes % group), value=torch.inf)
    nearest = padded.unflatten(1, (-1, group)).argmin(dim=2)
    first = torch.arange(nearest.shape[1], device=distance.device) * group
    chosen = (nearest + first).repeat_interleave(group, dim=1)[:, :lanes]
    spread = chosen[..., None].expand_as(seen.gradient)
    return replace(seen, loss=seen.loss.gather(1, chosen), gradient=seen.gradient.gather(1, spread))


def fab(options: AttackOptions) -> Boundary:
    """Untargeted: every restart goes to the nearest plane of all clauses."""
    return Boundary(
        name="fab",
        targets=EVERY_CLAUSE,
        together=True,
        rounds=options.steps or 100,
        restarts=options.restarts or 1,
    )


def fab_targeted(options: AttackOptions) -> Boundary:
    """Targeted: lanes of their own for the nine nearest classes."""
    return Boundary("fab-t", rounds=options.steps or 100, restarts=options.restarts or 1)


#: `FAB(net, eps=0.3)(images, labels)`: adversarial images.
FAB = ImageAttack(fab)
#: `FABT(net, eps=0.3)(images, labels)`: adversarial images.
FABT = ImageAttack(fab_targeted)
