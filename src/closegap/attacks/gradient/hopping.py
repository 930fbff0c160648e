"""Basin hopping: redraw a few inputs of the best points, descend again, keep the best.

Local minima of margins are many, and near one another: a fresh start throws away everything, a
small uniform perturbation falls back into the same basin. Redrawing a tenth or so of the inputs
and leaving the others does neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from closegap.attacks.gradient.descent import Descent, DescentState
from closegap.attacks.gradient.method import Evaluation, Objective
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import Problem
from closegap.attacks.gradient.starts import GivenStart
from closegap.attacks.images import ImageAttack
from closegap.attacks.projection import project, sample
from closegap.core.errors import OptionError

__all__ = ["HopPGD", "Hopping", "HoppingState", "hop_pgd"]


@dataclass(frozen=True, eq=False)
class HoppingState:
    """Where the lanes are in the present descent, and the best points of the former ones.

    Attributes:
        inner: of the present descent.
        hop: its number; 0 is the first descent.
        best: each lane's best point in it.
        best_margins: their margins.
        elite: the E best points of all descents.
        elite_margins: their margins, ascending; infinity where there is none yet.
    """

    inner: DescentState
    hop: int
    best: Float[Tensor, "B L D"]
    best_margins: Float[Tensor, "B L"]
    elite: Float[Tensor, "B E D"]
    elite_margins: Float[Tensor, "B E"]

    @property
    def points(self) -> Float[Tensor, "B L D"]:
        """To be evaluated next."""
        return self.inner.points


@dataclass(frozen=True)
class Hopping:
    """A first descent, then `hops` descents from mutated elites.

    A mutation redraws each input with a probability that is uniform in `[0, 2 * share]` for the
    lane. All lanes attack whichever clause is nearest.

    Attributes:
        name: as users write it.
        first: how lanes come to their first minima, its start included.
        descent: what follows every mutation; its start is not used.
        hops: how many mutations.
        restarts: lanes.
        elites: how many of the best points have offspring.
        share: mean share of inputs that are redrawn.

    Raises:
        OptionError: there is no lane, or no elite.
    """

    name: str = "hop-pgd"
    first: Descent = field(default_factory=lambda: Descent("first", steps=60, diversify=8))
    descent: Descent = field(
        default_factory=lambda: Descent("hop", steps=25, step_size=0.3, last_step=0.01)
    )
    hops: int = 20
    restarts: int = 32
    elites: int = 6
    share: float = 0.2
    targets: int = 0

    def __post_init__(self) -> None:
        if min(self.restarts, self.elites) < 1:
            raise OptionError("hopping needs a lane (restarts) and an elite at least")

    @property
    def steps(self) -> int:
        """Of all descents, and one more for each mutation."""
        return self.first.steps + self.hops * (self.descent.steps + 1)

    def resumed(self, points: NDArray[np.float32]) -> Hopping:
        """The same attack on one query, its first descent a polish of points `[M, *shape]`."""
        polish = replace(self.descent, name="polish", start=GivenStart({0: points}), step_size=0.1)
        return replace(self, first=polish)

    def init(self, problem: Problem, random: torch.Generator) -> HoppingState:
        """The first descent's first state."""
        inner = self.first.init(problem, random)
        elites = min(self.elites, inner.points.shape[1])
        nothing = torch.full_like(inner.points[:, :, 0], torch.inf)
        return HoppingState(
            inner=inner,
            hop=0,
            best=inner.points,
            best_margins=nothing,
            elite=inner.points[:, :elites],
            elite_margins=nothing[:, :elites],
        )

    def objective(self, problem: Problem, state: HoppingState) -> Objective:
        """That of the present descent."""
        return self._present(state).objective(problem, state.inner)

    def step(
        self, problem: Problem, state: HoppingState, seen: Evaluation, random: torch.Generator
    ) -> HoppingState:
        """A step of the present descent, or, at its end, the mutations that begin the next."""
        better = seen.margins < state.best_margins
        state = replace(
            state,
            best=torch.where(better[..., None], state.points, state.best),
            best_margins=torch.where(better, seen.margins.float(), state.best_margins),
        )
        present = self._present(state)
        if state.inner.taken < present.steps:
            return replace(state, inner=present.step(problem, state.inner, seen, random))
        margins = torch.cat([state.elite_margins, state.best_margins], dim=1)
        points = torch.cat([state.elite, state.best], dim=1)
        margins, order = margins.topk(state.elite.shape[1], dim=1, largest=False)
        elite = points.gather(1, order[..., None].expand(-1, -1, points.shape[2]))
        mutants = self._mutate(problem, elite, random)
        return HoppingState(
            inner=DescentState(mutants, state.inner.directions, (), 0),
            hop=state.hop + 1,
            best=mutants,
            best_margins=torch.full_like(state.best_margins, torch.inf),
            elite=elite,
            elite_margins=margins,
        )

    def _present(self, state: HoppingState) -> Descent:
        return self.first if state.hop == 0 else self.descent

    def _mutate(
        self, problem: Problem, elite: Float[Tensor, "B E D"], random: torch.Generator
    ) -> Float[Tensor, "B L D"]:
        """Every elite has as many offspring as every other, give or take one."""
        fresh = sample(problem.regions, problem.target.shape[1], random)
        parent = elite[:, torch.arange(fresh.shape[1], device=fresh.device) % elite.shape[1]]
        odds = torch.rand((*fresh.shape[:2], 1), generator=random, device=fresh.device)
        dice = torch.rand(fresh.shape, generator=random, device=fresh.device)
        redrawn = dice < 2 * self.share * odds
        return project(problem.regions, torch.where(redrawn, fresh, parent))


def hop_pgd(options: AttackOptions) -> Hopping:
    """Output-diversified first descents; `steps` are those of one descent."""
    steps = options.steps or 25
    return Hopping(
        first=Descent("first", steps=2 * steps, diversify=max(1, steps // 4)),
        descent=Descent("hop", steps=steps, step_size=options.step_size or 0.3, last_step=0.01),
        restarts=options.restarts or 32,
    )


#: `HopPGD(net, eps=0.3)(images, labels)`: adversarial images.
HopPGD = ImageAttack(hop_pgd)
