"""Random search with hill climbing, for networks of few inputs or without useful gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.method import Evaluation
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import Problem
from closegap.attacks.projection import project

__all__ = ["Sampling", "SamplingState", "sampling"]

#: Mutations are drawn log-uniformly between this share of an input's half-width and all of it, so
#: coarse and fine moves are tried at every step and no schedule is needed.
FINEST_MOVE = 1e-4


@dataclass(frozen=True, eq=False)
class SamplingState:
    """Where the lanes are, and the best points so far.

    Attributes:
        points: to be evaluated next.
        elite: the E best points.
        elite_losses: their losses, ascending; infinity where there is none yet.
    """

    points: Float[Tensor, "B L D"]
    elite: Float[Tensor, "B E D"]
    elite_losses: Float[Tensor, "B E"]


@dataclass(frozen=True)
class Sampling:
    """Uniform points and corners first; then mutations of the best, uniform points, and corners.

    A mutation moves a random subset of the inputs of one of the `elites` best points by normal
    steps whose length is drawn log-uniformly; half of them go along the difference of two elites.
    All lanes of a query share its elites.

    Attributes:
        name: as users write it.
        steps: rounds of `restarts` points each.
        restarts: points a round (lanes).
        elites: how many of the best points have offspring.
        fresh: share of a round that is drawn anew, half of it corners.
    """

    name: str = "sampling"
    steps: int = 50
    restarts: int = 512
    elites: int = 16
    fresh: float = 0.25
    targets: int = 0

    def init(self, problem: Problem, random: torch.Generator) -> SamplingState:
        """Uniform points and corners."""
        points = self._draw(problem, random)
        elites = min(self.elites, points.shape[1])
        return SamplingState(
            points=points,
            elite=points[:, :elites].clone(),
            elite_losses=torch.full_like(points[:, :elites, 0], torch.inf),
        )

    def objective(self, problem: Problem, state: SamplingState) -> None:
        """No gradient is wanted."""
        return

    def step(
        self, problem: Problem, state: SamplingState, seen: Evaluation, random: torch.Generator
    ) -> SamplingState:
        """Keep the best, and draw the next round around them."""
        losses = torch.cat([state.elite_losses, seen.loss.nan_to_num(torch.inf).float()], dim=1)
        points = torch.cat([state.elite, state.points], dim=1)
        elite_losses, order = losses.topk(state.elite.shape[1], dim=1, largest=False)
        elite = points.gather(1, order[..., None].expand(-1, -1, points.shape[2]))
        drawn = self._draw(problem, random)
        fresh = round(self.fresh * drawn.shape[1])
        mutants = self._mutate(problem, elite, drawn.shape[1] - fresh, random)
        return SamplingState(torch.cat([mutants, drawn[:, :fresh]], dim=1), elite, elite_losses)

    def _draw(self, problem: Problem, random: torch.Generator) -> Float[Tensor, "B L D"]:
        """Every second point uniform, every second one a corner of the box, then projected."""
        regions = problem.regions
        shape = (*problem.target.shape, regions.center.shape[1])
        share = torch.rand(shape, generator=random, device=regions.center.device)
        share[:, 1::2] = share[:, 1::2].round()
        lower, upper = regions.lower[:, None], regions.upper[:, None]
        return project(regions, lower + share * (upper - lower))

    def _mutate(
        self, problem: Problem, elite: Float[Tensor, "B E D"], count: int, random: torch.Generator
    ) -> Float[Tensor, "B mutants D"]:
        queries, elites, size = elite.shape
        device = elite.device

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=random, device=device)

        # Squaring favours the better elites.
        rank = (uniform(queries, count).square() * elites).long().clamp(max=elites - 1)
        other = (uniform(queries, count) * elites).long().clamp(max=elites - 1)
        parent, mate = (elite.gather(1, r[..., None].expand(-1, -1, size)) for r in (rank, other))
        length = FINEST_MOVE ** uniform(queries, count, 1)
        touched = uniform(queries, count, size) <= uniform(queries, count, 1).clamp(min=1 / size)
        noise = torch.randn((queries, count, size), generator=random, device=device)
        move = noise * touched * length * problem.regions.unit[:, None]
        along = (parent - mate) * (2 * uniform(queries, count, 1))
        crossed = uniform(queries, count, 1) < 0.5
        return project(problem.regions, parent + move + torch.where(crossed, along, 0.0))


def sampling(options: AttackOptions) -> Sampling:
    """Rounds of `restarts` points each; good where inputs are few or gradients useless."""
    return Sampling(steps=options.steps or 50, restarts=options.restarts or 512)
