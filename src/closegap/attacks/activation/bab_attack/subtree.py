"""A part of the region searched by branch and bound of our own: no solver of integer programs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from closegap.attacks.activation.bab_attack.arena import Arena, Finds
from closegap.attacks.activation.bab_attack.fixing import Fixing, UnitBounds
from closegap.attacks.activation.bab_attack.tree import GuidedTree, Plot, TreeOptions
from closegap.bounds.records import Interval
from closegap.mip.model import Status
from closegap.verify.bab.problem import Layer, SplitProblem, split_problem

__all__ = ["SubTree"]


@dataclass(frozen=True)
class SubTree:
    """How a part is searched by bounds of its subdomains, and linear programs where none is left.

    Attributes:
        seconds: for one part.
        hopeless: a subdomain is closed once its margin is known to be above this share of the
            margin to get below.
        polished: of the points the tree came through, so many of the best are polished.
        tree: how it grows.
    """

    seconds: float = 8.0
    hopeless: float = 0.5
    polished: int = 2
    tree: TreeOptions = field(default_factory=lambda: TreeOptions(beam=32, levels=1))

    def search(self, arena: Arena, part: Fixing, bounds: UnitBounds) -> Status:
        """See `SubSearch`; `OPTIMAL` means that every subdomain was closed or looked at."""
        problem = None if bounds.exclude(part.phase) else self._problem(arena, part, bounds)
        if problem is None:
            return Status.INFEASIBLE
        found = Finds(arena)

        def offer(points: NDArray[np.float64]) -> None:
            for point in points.reshape(len(points), -1):
                found.offer(point)

        fixed = np.where(bounds.undecided, part.phase, 0).astype(np.int8)
        grown = Plot(problem)
        tree = GuidedTree(grown, self.tree, offer, arena.pool.majority, arena.random(), fixed)
        spend = arena.budget.within(self.seconds)
        while not (arena.done or spend.expired or tree.exhausted):
            tree.step(spend)
        found.polish(self.polished)
        return Status.OPTIMAL if tree.exhausted else Status.TIME

    def _problem(self, arena: Arena, part: Fixing, bounds: UnitBounds) -> SplitProblem | None:
        """The clause's problem with the part's bounds, positive above what is hopeless."""
        query = arena.problem.query
        clause = np.array([part.clause])
        whole = split_problem(query, arena.problem.bounds, clause, budget=arena.budget)
        if whole is None:
            return None
        near = dict(whole.bounds)
        for layer in whole.layers:
            near[layer.feed] = _narrowed(near[layer.feed], layer, bounds)
        goal = self.hopeless * part.margin if 0 < part.margin < np.inf else 0.0
        return replace(whole, bounds=near, offsets=whole.offsets - goal)


def _narrowed(base: Interval, layer: Layer, bounds: UnitBounds) -> Interval:
    """The feeding node's bounds with those of the layer's units; it may have other entries too."""
    lower, upper = base.lower.clone(), base.upper.clone()
    lower.view(-1)[layer.indices] = torch.as_tensor(bounds.lower[layer.units])
    upper.view(-1)[layer.indices] = torch.as_tensor(bounds.upper[layer.units])
    return Interval(lower, upper)
