"""Square: random windows, kept where they lower the margin; no gradients (2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from closegap.attacks.gradient.method import Evaluation
from closegap.attacks.gradient.options import AttackOptions
from closegap.attacks.gradient.problem import Problem
from closegap.attacks.gradient.windows import Grid, two_humps
from closegap.attacks.images import ImageAttack
from closegap.attacks.projection import RegionBatch, project
from closegap.core.numerics import TINY

__all__ = ["Square", "SquareSearch", "SquareState", "square", "window_share"]

#: After so many of 10,000 queries the window's share of the image halves.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

#: Sides of the tiles that a search in a ball starts with, as a share of the image's.
TILE = 5


@dataclass(frozen=True, eq=False)
class SquareState:
    """Where the lanes are, and their best points.

    Attributes:
        points: to be evaluated next.
        best: of least margin so far.
        best_margins: there.
        taken: queries so far.
    """

    points: Float[Tensor, "B L D"]
    best: Float[Tensor, "B L D"]
    best_margins: Float[Tensor, "B L"]
    taken: int


@dataclass(frozen=True)
class SquareSearch:
    """Random search whose steps repaint one window of the image.

    In a box a window takes, channel by channel, the one or the other end of every input's range,
    and lanes begin with vertical stripes of ends. In an l2 or l1 ball the perturbation has the
    radius's length; a step moves the length of one window to another, into two humps. Inputs that
    are no image (`[C, H, W]` or `[H, W]`) are one row, and windows are runs in it.

    Attributes:
        name: as users write it.
        steps: queries of a lane.
        restarts: lanes.
        share: of the image that the first windows fill (p).
        rescale: whether the schedule of `share` spans `steps`, instead of 10,000 queries.

    Source: Andriushchenko et al., Square Attack: a Query-Efficient Black-Box Adversarial Attack via
        Random Search, ECCV 2020, algorithms 1 to 3.
    """

    name: str = "square"
    steps: int = 5000
    restarts: int = 1
    share: float = 0.8
    rescale: bool = True
    targets: int = 0

    def init(self, problem: Problem, random: torch.Generator) -> SquareState:
        """Stripes of ends in a box, tiles of humps in a ball."""
        grid, regions = Grid.of_shape(problem.shape), problem.regions
        lanes = (problem.target.shape[0], problem.target.shape[1])
        start = _stripes if regions.norm == math.inf else _tiles
        points = start(regions, grid, lanes, random)
        nothing = torch.full(lanes, torch.inf, device=points.device).to(problem.rows)
        return SquareState(points, points, nothing, 0)

    def objective(self, problem: Problem, state: SquareState) -> None:
        """No gradient is wanted."""
        return

    def step(
        self, problem: Problem, state: SquareState, seen: Evaluation, random: torch.Generator
    ) -> SquareState:
        """Keep the better points, and repaint a window of each."""
        better = seen.margins < state.best_margins
        best = torch.where(better[..., None], state.points, state.best)
        margins = torch.where(better, seen.margins, state.best_margins)
        span = self.steps if self.rescale else 10_000
        share = window_share(self.share, state.taken, span)
        grid, regions = Grid.of_shape(problem.shape), problem.regions
        paint = _repaint_ends if regions.norm == math.inf else _move_length
        return SquareState(
            paint(regions, grid, best, share, random), best, margins, state.taken + 1
        )


def window_share(first: float, taken: int, span: int) -> float:
    """The share of the image that a window fills, after `taken` of `span` queries."""
    scaled = taken * 10_000 // span
    return first / 2.0 ** sum(scaled > at for at in HALVINGS)


def _coins(shape: tuple[int, ...], random: torch.Generator) -> Bool[Tensor, "..."]:
    return torch.rand(shape, generator=random, device=random.device) < 0.5


def _stripes(
    regions: RegionBatch, grid: Grid, lanes: tuple[int, int], random: torch.Generator
) -> Float[Tensor, "B L D"]:
    """Every column of every channel at one end."""
    high = _coins((*lanes, grid.channels, 1, grid.width), random)
    high = high.expand(-1, -1, -1, grid.height, -1).reshape(*lanes, -1)
    return torch.where(high, regions.upper[:, None], regions.lower[:, None])


def _repaint_ends(
    regions: RegionBatch,
    grid: Grid,
    best: Float[Tensor, "B L D"],
    share: float,
    random: torch.Generator,
) -> Float[Tensor, "B L D"]:
    """One window of each point, every channel of it at one end."""
    lanes = (best.shape[0], best.shape[1])
    size = grid.window(share)
    places = grid.places(lanes, size, random)
    high = _coins((*lanes, grid.channels), random).repeat_interleave(size[0] * size[1], dim=2)
    upper, lower = (
        end[:, None].expand_as(best).gather(2, places) for end in (regions.upper, regions.lower)
    )
    return best.scatter(2, places, torch.where(high, upper, lower))


def _tiles(
    regions: RegionBatch, grid: Grid, lanes: tuple[int, int], random: torch.Generator
) -> Float[Tensor, "B L D"]:
    """The image tiled by windows of two humps, each channel of each tile with a sign of its own."""
    device = random.device
    height, width = (max(1, side // TILE) for side in (grid.height, grid.width))
    humps = two_humps(height, width, device=device)
    rows, columns = grid.height // height, grid.width // width
    signs = 2.0 * _coins((*lanes, grid.channels, rows, columns), random) - 1
    tiled = torch.einsum("blcij,hw->blcihjw", signs, humps).flatten(5, 6).flatten(3, 4)
    spare = (grid.height - rows * height, grid.width - columns * width)
    pad = (spare[1] // 2, spare[1] - spare[1] // 2, spare[0] // 2, spare[0] - spare[0] // 2)
    return _stretched(regions, torch.nn.functional.pad(tiled, pad).flatten(2))


def _move_length(
    regions: RegionBatch,
    grid: Grid,
    best: Float[Tensor, "B L D"],
    share: float,
    random: torch.Generator,
) -> Float[Tensor, "B L D"]:
    """Empty one window, and give its length, and what the ball has to spare, to another."""
    lanes = (best.shape[0], best.shape[1])
    size = grid.window(share, least=3, odd=True)
    target, source = (grid.places(lanes, size, random) for _ in range(2))
    offset = best - regions.center[:, None]
    emptied = offset.scatter(2, source, 0.0).scatter(2, target, 0.0)
    squares = offset.square().sum(dim=2, keepdim=True)
    freed = (squares - emptied.square().sum(dim=2, keepdim=True)).clamp(min=0.0)
    spare = (regions.radius.square()[:, None, None] - squares).clamp(min=0.0)
    old = offset.gather(2, target)
    old = old / old.norm(dim=2, keepdim=True).clamp(min=TINY)
    fresh = _signed_humps(grid, lanes, size, random) + old.unflatten(2, (grid.channels, -1))
    fresh = fresh / fresh.norm(dim=3, keepdim=True).clamp(min=TINY)
    fresh = fresh.flatten(2) * (spare / grid.channels + freed).sqrt()
    return _stretched(regions, emptied.scatter(2, target, fresh))


def _signed_humps(
    grid: Grid, lanes: tuple[int, int], size: tuple[int, int], random: torch.Generator
) -> Float[Tensor, "B L C S"]:
    """Two humps a channel, of random sign; in squares upright or lying, lane by lane."""
    humps = two_humps(*size, device=random.device)
    signs = 2.0 * _coins((*lanes, grid.channels, 1), random) - 1
    turned = humps.T if size[0] == size[1] else humps
    lying = _coins((*lanes, 1, 1), random)
    return signs * torch.where(lying, turned.reshape(-1), humps.reshape(-1))


def _stretched(regions: RegionBatch, offset: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """The points at these offsets from the centers, stretched to the radius, then projected."""
    length = offset.norm(p=regions.norm, dim=2, keepdim=True).clamp(min=TINY)
    moved = regions.center[:, None] + offset * (regions.radius[:, None, None] / length)
    return project(regions, moved)


def square(options: AttackOptions) -> SquareSearch:
    """`steps` queries of each of `restarts` lanes."""
    return SquareSearch(steps=options.steps or 5000, restarts=options.restarts or 1)


#: `Square(net, eps=0.3)(images, labels)`: adversarial images.
Square = ImageAttack(square)
