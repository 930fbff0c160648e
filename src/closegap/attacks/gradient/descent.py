"""Projected gradient descent as a composition: start, diversification, loss, stepper, schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.attacks.gradient.losses import Loss, MarginLoss
from closegap.attacks.gradient.method import Evaluation, Objective
from closegap.attacks.gradient.problem import Problem
from closegap.attacks.gradient.starts import Start, UniformStart
from closegap.attacks.gradient.steppers import Memory, SteepestStepper, Stepper
from closegap.attacks.projection import project

__all__ = ["Descent", "DescentState"]


@dataclass(frozen=True, eq=False)
class DescentState:
    """Where the lanes are.

    Attributes:
        points: to be evaluated next.
        directions: of the outputs, along which diversifying lanes climb.
        memory: the stepper's.
        taken: how many steps came before.
    """

    points: Float[Tensor, "B L D"]
    directions: Float[Tensor, "B L C"]
    memory: Memory
    taken: int


@dataclass(frozen=True)
class Descent:
    """`x <- project(x + size * displacement(gradient))`, the size falling geometrically.

    The first `diversify` steps climb a random direction of the outputs instead of lowering the
    loss, so that restarts end in different places (Tashiro et al., Output Diversified Sampling,
    2020). Where a gradient is zero everywhere a lane moves at random.

    Attributes:
        name: as users write it.
        start: where lanes begin.
        loss: what they lower.
        stepper: how they move.
        steps: in all, the diversifying ones included.
        restarts: for each attacked clause.
        targets: clauses with lanes of their own; 0 for whichever is nearest.
        step_size: of the first descending step; 1 goes from a box's center to its corner.
        last_step: size of the last step; the sizes between fall by one factor.
        diversify: how many steps diversify, each of length `diversify_size`.
        diversify_size: in the same unit as `step_size`.
        escape: whether lanes without a gradient move at random.
    """

    name: str
    start: Start = field(default_factory=UniformStart)
    loss: Loss = field(default_factory=MarginLoss)
    stepper: Stepper = field(default_factory=SteepestStepper)
    steps: int = 100
    restarts: int = 1
    targets: int = 0
    step_size: float = 1.0
    last_step: float = 0.01
    diversify: int = 0
    diversify_size: float = 0.5
    escape: bool = True

    def init(self, problem: Problem, random: torch.Generator) -> DescentState:
        """Start points, and a random output direction for every lane.

        Raises:
            OptionError: the loss is not for properties of this kind.
        """
        self.loss.check(problem)
        points = self.start(problem, random)
        shape = (*points.shape[:2], problem.clean.shape[1])
        share = torch.rand(shape, generator=random, device=points.device, dtype=problem.rows.dtype)
        return DescentState(points, 2 * share - 1, (), 0)

    def objective(self, problem: Problem, state: DescentState) -> Objective:
        """Minus the random direction at first, the loss after."""
        if state.taken < self.diversify:
            return lambda outputs: -(state.directions * outputs).sum(dim=2)
        return lambda outputs: self.loss(problem, outputs, state.taken - self.diversify)

    def step(
        self, problem: Problem, state: DescentState, seen: Evaluation, random: torch.Generator
    ) -> DescentState:
        """One projected step; the stepper's memory begins anew after diversifying."""
        gradient = self._alive(seen.gradient, random)
        since = state.taken - self.diversify
        memory = () if since == 0 else state.memory
        move, memory = self.stepper(
            problem.regions, gradient, memory, since if since >= 0 else state.taken
        )
        points = project(problem.regions, state.points + self._size(since) * move)
        return DescentState(points, state.directions, memory, state.taken + 1)

    def _size(self, since: int) -> float:
        """The step size, `since` steps after diversifying ended."""
        if since < 0:
            return self.diversify_size
        span = max(1, self.steps - self.diversify - 1)
        fall = min(1.0, self.last_step / self.step_size)
        return self.step_size * math.pow(fall, since / span)

    def _alive(
        self, gradient: Float[Tensor, "B L D"], random: torch.Generator
    ) -> Float[Tensor, "B L D"]:
        dead = (gradient == 0).all(dim=2, keepdim=True)
        if not self.escape or not bool(dead.any()):
            return gradient
        noise = torch.randn(
            gradient.shape, generator=random, device=gradient.device, dtype=gradient.dtype
        )
        return torch.where(dead, noise, gradient)
