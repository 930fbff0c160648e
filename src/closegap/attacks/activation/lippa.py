"""LiPPA: linear programs inside activation cells, sign-gradient steps between them.

A program finds the best point of the present cell (exploitation); from there gradient steps of
half a grey level go on until they enter a cell that was not visited (exploration). Source: LiPPA,
Linear Programming Powered Attack, Algorithm 1, with two corrections: where the cell holds no
adversarial point the program lowers the margin instead, and a unit at zero names no new cell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from closegap.attacks.activation.cells import cell_key
from closegap.attacks.activation.harvest import Harvest, OnCandidate, harvested
from closegap.attacks.activation.programs.lazy import nearest_walls
from closegap.attacks.activation.region import UNSUITED, RegionProblem, region_problem
from closegap.attacks.activation.walk import Place
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.images import ImageAttack
from closegap.attacks.outcome import AttackOutcome
from closegap.bounds.intermediate import NetworkBounds
from closegap.core.budget import Budget
from closegap.core.numerics import CELL_TOLERANCE
from closegap.specs.query import Query

__all__ = ["LiPPA", "LippaAttack", "LippaOptions", "lippa"]


@dataclass(frozen=True)
class LippaOptions:
    """Sizes of the search.

    Attributes:
        step_size: of a gradient step, in input units.
        steps: most gradient steps between two programs.
        hops: most cells a target's walk enters.
        widest: a walk that enters no new cell takes longer steps, up to this many times.
    """

    step_size: float = 0.5 / 256
    steps: int = 50
    hops: int = 40
    widest: int = 8


class LippaAttack:
    """The attack.

    Args:
        options: see `LippaOptions`.
    """

    name = "lippa"

    def __init__(self, options: LippaOptions | None = None) -> None:
        self.options = LippaOptions() if options is None else options

    def attack_query(
        self,
        query: Query,
        budget: Budget,
        bounds: NetworkBounds | None = None,
        judge: OnCandidate | None = None,
    ) -> AttackOutcome:
        """Attack one query, its clauses in ascending order of what the clean cell holds.

        A network that is not piecewise linear, or is too large to be written densely, gives the
        region's reference point only.

        Args:
            query: what to break.
            budget: its deadline.
            bounds: of the activations' inputs over the region, if known.
            judge: see `Harvest`.

        Returns:
            the best candidates, all inside the region.

        Raises:
            AttackInterrupted: Ctrl-C, with what was found until then.
        """

        def search(harvest: Harvest) -> None:
            problem = region_problem(query, budget, bounds)
            center = query.reference.reshape(-1)
            center = center if problem is None else problem.inside(center)
            harvest.take(center)
            if problem is None and not budget.expired:
                harvest.note(UNSUITED)
            if problem is not None and not harvest.done:
                _run(self.options, problem, center, harvest, budget)

        return harvested(query, self.name, budget, search, judge)


def _run(
    options: LippaOptions,
    problem: RegionProblem,
    center: Float[np.ndarray, "D"],
    harvest: Harvest,
    budget: Budget,
) -> None:
    """The clean cell for every clause, then one walk a clause."""
    walks = [_TargetWalk(options, problem, clause, harvest) for clause in range(len(problem.goals))]
    values = []
    for walk in walks:
        place = walk.program(problem.units.phase(center), center, budget)
        values.append(np.inf if place is None else place.answer.value)
        if harvest.done or budget.expired:
            return
    for number in np.argsort(values, kind="stable"):
        walks[number].run(center, budget)
        if harvest.done or budget.expired:
            return


class _TargetWalk:
    """One clause's walk."""

    def __init__(
        self, options: LippaOptions, problem: RegionProblem, clause: int, harvest: Harvest
    ) -> None:
        self._options = options
        self._problem = problem
        self._clause = clause
        self._harvest = harvest
        self._visited: set[bytes] = set()
        self._place: Place | None = None

    def program(
        self, phase: Bool[np.ndarray, "U"], point: Float[np.ndarray, "D"], budget: Budget
    ) -> Place | None:
        """Enter a cell and optimise over it; `None` where the program gives nothing."""
        problem, before = self._problem, self._place
        self._visited.add(cell_key(phase))
        cell = problem.units.cell(phase, None if before is None else before.cell)
        goal = problem.goals[self._clause]
        near = nearest_walls(cell, point)
        answer = problem.program.least_margin(cell, goal, problem.radius, near, budget)
        if answer is None:
            return None
        self._place = Place(cell, answer)
        self._harvest.take(answer.point)
        return self._place

    def run(self, center: Float[np.ndarray, "D"], budget: Budget) -> None:
        """Hop from cell to cell until no new one is found."""
        point = center if self._place is None else self._place.answer.point
        for _ in range(self._options.hops):
            entered = self._hop(point)
            if entered is None or self._harvest.done or budget.expired:
                return
            place = self.program(self._problem.units.phase(entered), entered, budget)
            point = entered if place is None else place.answer.point

    def _hop(self, point: Float[np.ndarray, "D"]) -> Float[np.ndarray, "D"] | None:
        """Gradient steps into a cell that was not visited; longer ones where short ones fail."""
        width = 1
        while width <= self._options.widest:
            found = self._descend(point, width * self._options.step_size)
            if found is not None:
                return found
            width *= 2
        return None

    def _descend(self, point: Float[np.ndarray, "D"], size: float) -> Float[np.ndarray, "D"] | None:
        problem, here = self._problem, point
        values = problem.units.pre_activations(here)
        for _ in range(self._options.steps):
            gradient = problem.gradient(self._clause, here, values)
            following = problem.inside(here - size * np.sign(gradient))
            if np.array_equal(following, here):
                return None
            here = following
            values = problem.units.pre_activations(here)
            if self._is_new(values):
                return here
        return None

    def _is_new(self, values: Float[np.ndarray, "U"]) -> bool:
        """Whether pre-activations are of a cell that was not visited, and of none of its walls."""
        clear = np.abs(values).min(initial=np.inf) > CELL_TOLERANCE
        return bool(clear) and cell_key(values >= 0) not in self._visited


def lippa(options: AttackOptions | None = None) -> LippaAttack:
    """The attack, with a user's sizes: `steps` between programs, `restarts` as cells entered."""
    chosen, sizes = options or AttackOptions(), LippaOptions()
    return LippaAttack(
        replace(sizes, steps=chosen.steps or sizes.steps, hops=chosen.restarts or sizes.hops)
    )


#: `LiPPA(net, eps=0.1)(images, labels)`: adversarial images.
LiPPA = ImageAttack(lippa)
