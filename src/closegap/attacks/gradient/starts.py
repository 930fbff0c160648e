"""Where lanes begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from closegap.attacks.gradient.problem import Problem, take
from closegap.attacks.projection import project, sample

__all__ = ["CenterStart", "GivenStart", "Start", "UniformStart"]


@runtime_checkable
class Start(Protocol):
    """The first points of all lanes, members of the regions."""

    def __call__(self, problem: Problem, random: torch.Generator) -> Float[Tensor, "B L D"]:
        """The points."""
        ...


@dataclass(frozen=True)
class CenterStart:
    """Every lane at the center of its region."""

    def __call__(self, problem: Problem, random: torch.Generator) -> Float[Tensor, "B L D"]:
        """The centers."""
        return problem.regions.center[:, None].expand(-1, problem.target.shape[1], -1).clone()


@dataclass(frozen=True)
class UniformStart:
    """Every lane at a random point: uniform in the box, projected into the ball."""

    def __call__(self, problem: Problem, random: torch.Generator) -> Float[Tensor, "B L D"]:
        """Random points."""
        return sample(problem.regions, problem.target.shape[1], random)


@dataclass(frozen=True, eq=False)
class GivenStart:
    """Lanes at points somebody else found, to be polished.

    Attributes:
        points: float32 `[M, *input_shape]` by position of the query; lanes take them in turn.
            A query without points starts at random ones.
        jitter: share of the way to a random point at which a lane begins, once the points have
            been used up.
    """

    points: Mapping[int, NDArray[np.float32]] = field(default_factory=dict)
    jitter: float = 0.1

    def __call__(self, problem: Problem, random: torch.Generator) -> Float[Tensor, "B L D"]:
        """The given points, projected."""
        start = sample(problem.regions, problem.target.shape[1], random)
        for row, place in enumerate(problem.query.tolist()):
            given = self.points.get(place)
            if given is None or not len(given):
                continue
            flat = _into(problem, row, torch.as_tensor(given.reshape(len(given), -1)).to(start))
            lane = torch.arange(start.shape[1], device=start.device)
            again = (lane >= len(flat)).to(start)[:, None] * self.jitter
            chosen = flat[lane % len(flat)]
            start[row] = chosen + again * (start[row] - chosen)
        return project(problem.regions, start)


def _into(problem: Problem, row: int, points: Float[Tensor, "M D"]) -> Float[Tensor, "M D"]:
    """Points projected into one query's region."""
    regions = take(problem.regions, torch.tensor([row], device=points.device))
    return project(regions, points[None])[0]
