"""APGD: projected descent whose step sizes halve where progress stalls, lane by lane."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from closegap.attacks.gradient.losses import LogitsRatioLoss, Loss
from closegap.attacks.gradient.method import Evaluation, Objective
from closegap.attacks.gradient.problem import Problem
from closegap.attacks.gradient.starts import Start, UniformStart
from closegap.attacks.projection import project, steepest

__all__ = ["AutoDescent", "AutoDescentState", "checkpoints"]


@dataclass(frozen=True, eq=False)
class AutoDescentState:
    """Where the lanes are, where they were, and how they have fared.

    Attributes:
        points: to be evaluated next.
        former: the points before.
        size: step sizes; 1 spans the region's radius.
        best, best_loss, best_gradient: of the least loss so far.
        last_loss: at the point before.
        falls: how often the loss fell since the last checkpoint.
        checked_loss: the least loss at the last checkpoint.
        halved: whether the last checkpoint halved the size.
        taken: steps so far.
    """

    points: Float[Tensor, "B L D"]
    former: Float[Tensor, "B L D"]
    size: Float[Tensor, "B L"]
    best: Float[Tensor, "B L D"]
    best_loss: Float[Tensor, "B L"]
    best_gradient: Float[Tensor, "B L D"]
    last_loss: Float[Tensor, "B L"]
    falls: Int[Tensor, "B L"]
    checked_loss: Float[Tensor, "B L"]
    halved: Bool[Tensor, "B L"]
    taken: int


@dataclass(frozen=True)
class AutoDescent:
    """Steepest steps with momentum; at checkpoints a stalled lane halves its step size and goes
    back to its best point.

    A lane has stalled when its loss fell in fewer than a share `rho` of the steps since the last
    checkpoint, or when neither its step size nor its least loss changed there.

    Attributes:
        name: as users write it.
        loss: what lanes lower.
        start: where they begin.
        steps: gradient steps.
        restarts: for each attacked clause.
        targets: clauses with lanes of their own; 0 for whichever is nearest.
        step_size: at first; 2 crosses a box.
        rho: see above.
        momentum: share of a step that is kept; the rest repeats the step before.

    Source: Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of
        Diverse Parameter-free Attacks, ICML 2020, algorithm 1.
    """

    name: str
    loss: Loss = field(default_factory=LogitsRatioLoss)
    start: Start = field(default_factory=UniformStart)
    steps: int = 100
    restarts: int = 1
    targets: int = 0
    step_size: float = 2.0
    rho: float = 0.75
    momentum: float = 0.75

    def init(self, problem: Problem, random: torch.Generator) -> AutoDescentState:
        """Start points, nothing known.

        Raises:
            OptionError: the loss is not for properties of this kind.
        """
        self.loss.check(problem)
        points = self.start(problem, random)
        nothing = torch.full(points.shape[:2], torch.inf, device=points.device)
        return AutoDescentState(
            points=points,
            former=points,
            size=torch.full_like(nothing, self.step_size),
            best=points,
            best_loss=nothing.to(problem.rows),
            best_gradient=torch.zeros_like(points),
            last_loss=nothing.to(problem.rows),
            falls=torch.zeros_like(problem.target),
            checked_loss=nothing.to(problem.rows),
            halved=torch.ones_like(problem.target, dtype=torch.bool),
            taken=0,
        )

    def objective(self, problem: Problem, state: AutoDescentState) -> Objective:
        """The loss."""
        return lambda outputs: self.loss(problem, outputs, state.taken)

    def step(
        self,
        problem: Problem,
        state: AutoDescentState,
        seen: Evaluation,
        random: torch.Generator,
    ) -> AutoDescentState:
        """Remember the best, halve where a checkpoint finds a lane stalled, and move."""
        better = seen.loss < state.best_loss
        state = replace(
            state,
            best=torch.where(better[..., None], state.points, state.best),
            best_loss=torch.where(better, seen.loss, state.best_loss),
            best_gradient=torch.where(better[..., None], seen.gradient, state.best_gradient),
            falls=state.falls + (seen.loss < state.last_loss) * (state.taken > 0),
            last_loss=seen.loss,
        )
        if state.taken == 0:
            state = replace(state, checked_loss=state.best_loss, halved=torch.ones_like(better))
        points, gradient = state.points, seen.gradient
        span = checkpoints(self.steps).get(state.taken)
        if span is not None:
            state = self._check(state, span)
            points = torch.where(state.halved[..., None], state.best, points)
            gradient = torch.where(state.halved[..., None], state.best_gradient, gradient)
        move = state.size[..., None] * steepest(problem.regions, gradient)
        aim = project(problem.regions, points + move)
        kept = self.momentum if state.taken else 1.0
        moved = points + kept * (aim - points) + (1 - kept) * (points - state.former)
        return replace(
            state,
            points=project(problem.regions, moved),
            former=points,
            taken=state.taken + 1,
        )

    def _check(self, state: AutoDescentState, span: int) -> AutoDescentState:
        """Halve the step sizes of stalled lanes, `span` steps after the last check."""
        idle = ~state.halved & (state.checked_loss <= state.best_loss)
        stalled = (state.falls <= self.rho * span) | idle
        return replace(
            state,
            size=torch.where(stalled, state.size / 2, state.size),
            falls=torch.zeros_like(state.falls),
            checked_loss=state.best_loss,
            halved=stalled,
        )


def checkpoints(steps: int) -> dict[int, int]:
    """After how many steps lanes are checked, and how many lie since the check before.

    The first check comes after 22% of the steps; every span is 3% of them shorter than the one
    before, but never shorter than 6%.
    """
    span, least, shrink = (max(1, int(share * steps)) for share in (0.22, 0.06, 0.03))
    found: dict[int, int] = {}
    at = span
    while at <= steps:
        found[at] = span
        span = max(least, span - shrink)
        at += span
    return found
