"""What an attack of least distance works on: images and restarts side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from closegap.attacks.projection import RegionBatch, project
from closegap.core.budget import Budget
from closegap.core.numerics import REPLAY_SLACK
from closegap.runtime.torch_network import TorchNetwork
from closegap.specs.distance import DistanceQuery

__all__ = [
    "Best",
    "Lanes",
    "Seen",
    "build_lanes",
    "evaluate",
    "in_ball",
    "lanes_of",
    "margins",
    "pixel_peaks",
    "pixel_sums",
    "planes",
    "several",
    "sizes",
]


@dataclass(frozen=True, eq=False)
class Lanes:
    """L searches of one network, each around its own image.

    Attributes:
        network: float32.
        images: the clean ones.
        starts: where the lanes begin.
        rivals: the classes that must be beaten: the label, or all but a target that must win.
        counted: which classes may beat them.
        wanted: which of them the lane goes for.
        slack: a point is broken where its margin is below minus this, so that a replay agrees.
        pixel_of: the pixel of each input; the colour channels of a pixel share it.
        query: position of each lane's query in the caller's list.
        room: how many points go through the network at a time.
        budget: of the running search, for searches within its steps.
    """

    network: TorchNetwork
    images: Float[Tensor, "L D"]
    starts: Float[Tensor, "L D"]
    rivals: Bool[Tensor, "L C"]
    counted: Bool[Tensor, "L C"]
    wanted: Bool[Tensor, "L C"]
    slack: Float[Tensor, "L"]
    pixel_of: Int[Tensor, "D"]
    query: Int[Tensor, "L"]
    room: int
    budget: Budget = field(default_factory=Budget)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return int(self.pixel_of.max()) + 1


@dataclass(frozen=True, eq=False)
class Seen:
    """The network at candidates, and the gradient that the next step follows.

    Attributes:
        points: candidates; M of each lane, lane by lane, where a method looks at several.
        margins: `f_rival - f_k` at the candidates, the greatest over the rivals and the least over
            the classes that count.
        losses: the same over the classes that the lane wants, where the gradient was taken.
        gradient: of the losses.
    """

    points: Float[Tensor, "K D"]
    margins: Float[Tensor, "K"]
    losses: Float[Tensor, "K"]
    gradient: Float[Tensor, "K D"]


@dataclass(frozen=True, eq=False)
class Best:
    """The nearest broken point of every lane, and infinity where there is none."""

    points: Float[Tensor, "L D"]
    distances: Float[Tensor, "L"]

    @classmethod
    def none(cls, lanes: Lanes) -> Best:
        """The images themselves, at infinity."""
        return cls(lanes.images, torch.full_like(lanes.slack, math.inf))

    @property
    def found(self) -> Bool[Tensor, "L"]:
        """Which lanes have a point."""
        return self.distances.isfinite()

    def updated(
        self, points: Float[Tensor, "L D"], distances: Float[Tensor, "L"], broken: Bool[Tensor, "L"]
    ) -> Best:
        """With those of the points that are broken and nearer."""
        nearer = broken & (distances < self.distances)
        return Best(
            torch.where(nearer[:, None], points, self.points),
            torch.where(nearer, distances, self.distances),
        )


def build_lanes(
    network: TorchNetwork, queries: Sequence[DistanceQuery], restarts: int, room: int
) -> Lanes:
    """`restarts` lanes a query: one for whichever class is nearest, then one for each class.

    The classes come in the order of their margins at the image; after the last it begins anew.

    Args:
        network: float32, that the queries are about.
        queries: each with its image.
        restarts: lanes a query.
        room: how many points go through the network at a time.
    """
    shape = network.network.input_shape
    images = network.tensor(np.stack([q.image.reshape(-1) for q in queries])).float()
    with torch.no_grad():
        outputs = network(images.reshape(-1, *shape))
    counted = torch.stack([_counted(q, outputs.shape[1]) for q in queries]).to(network.device)
    rivals = torch.stack([_rivals(q, outputs.shape[1]) for q in queries]).to(network.device)
    ranked = outputs.masked_fill(~counted, -math.inf).argsort(dim=1, descending=True, stable=True)
    wanted = []
    for restart in range(restarts):
        own = torch.zeros_like(counted).scatter(
            1, ranked[:, (restart - 1) % len(ranked[0])][:, None], True
        )
        wanted.append(counted if restart == 0 else counted & own)
    several = torch.stack(wanted, dim=1)
    empty = ~several.any(dim=2, keepdim=True)
    several = torch.where(empty, counted[:, None], several).flatten(0, 1)
    base = Lanes(
        network,
        images,
        images,
        rivals,
        counted,
        counted,
        REPLAY_SLACK * (1 + outputs.abs().amax(dim=1)),
        torch.as_tensor(queries[0].picture.pixel_of, device=network.device),
        torch.arange(len(queries), device=network.device),
        room,
    )
    return replace(lanes_of(base, base.query.repeat_interleave(restarts)), wanted=several)


def _counted(query: DistanceQuery, classes: int) -> Tensor:
    every = torch.arange(classes)
    return every != query.label if query.target is None else every == query.target


def _rivals(query: DistanceQuery, classes: int) -> Tensor:
    every = torch.arange(classes)
    if query.target is not None and query.outright:
        return every != query.target
    return every == query.label


def lanes_of(lanes: Lanes, keep: Int[Tensor, "kept"]) -> Lanes:
    """The lanes at these places, repeated where a place is."""
    return replace(
        lanes,
        images=lanes.images[keep],
        starts=lanes.starts[keep],
        rivals=lanes.rivals[keep],
        counted=lanes.counted[keep],
        wanted=lanes.wanted[keep],
        slack=lanes.slack[keep],
        query=lanes.query[keep],
    )


def several(lanes: Lanes, times: int) -> Lanes:
    """Every lane so many times, one beside the other."""
    return lanes_of(
        lanes, torch.arange(len(lanes.query), device=lanes.query.device).repeat_interleave(times)
    )


def _outputs(lanes: Lanes, points: Tensor) -> Tensor:
    return lanes.network(points.reshape(-1, *lanes.network.network.input_shape))


def _margins(lanes: Lanes, outputs: Tensor, classes: Tensor) -> Tensor:
    best = outputs.masked_fill(~lanes.rivals, -math.inf).amax(dim=1)
    return best - outputs.masked_fill(~classes, -math.inf).amax(dim=1)


def margins(lanes: Lanes, points: Float[Tensor, "L D"]) -> Float[Tensor, "L"]:
    """`f_rival - f_k`, the greatest over the rivals and the least over the classes that count."""
    with torch.no_grad():
        parts = [_outputs(lanes, part) for part in points.split(lanes.room)]
        return _margins(lanes, torch.cat(parts), lanes.counted)


def evaluate(lanes: Lanes, points: Float[Tensor, "L D"]) -> Seen:
    """Margins, losses and their gradient at the same points."""
    if len(points) <= lanes.room:
        return Seen(points, *_evaluated(lanes, points))
    every = torch.arange(len(points), device=points.device)
    parts = [_evaluated(lanes_of(lanes, rows), points[rows]) for rows in every.split(lanes.room)]
    counted, losses, gradient = (torch.cat(values) for values in zip(*parts, strict=True))
    return Seen(points, counted, losses, gradient)


def _evaluated(lanes: Lanes, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    leaf = points.detach().requires_grad_()
    outputs = _outputs(lanes, leaf)
    losses = _margins(lanes, outputs, lanes.wanted)
    (gradient,) = torch.autograd.grad(losses.sum(), leaf)
    with torch.no_grad():
        return _margins(lanes, outputs, lanes.counted), losses.detach(), gradient


def planes(
    lanes: Lanes, points: Float[Tensor, "L D"]
) -> tuple[Float[Tensor, "L C"], Float[Tensor, "L C D"]]:
    """`f_rival - f_k` of every class at the points, the greatest over rivals, and the gradients."""
    classes = lanes.counted.shape[1]
    each = torch.eye(classes, dtype=torch.bool, device=points.device)
    several = replace(
        lanes_of(lanes, torch.arange(len(points), device=points.device).repeat_interleave(classes)),
        wanted=each.repeat(len(points), 1),
    )
    seen = evaluate(several, points.repeat_interleave(classes, dim=0))
    shape = (len(points), classes)
    return seen.losses.reshape(shape), seen.gradient.reshape(*shape, -1)


def pixel_sums(lanes: Lanes, values: Float[Tensor, "L D"]) -> Float[Tensor, "L P"]:
    """Sums over the channels of each pixel."""
    if lanes.pixels == values.shape[1]:
        return values
    sums = values.new_zeros(len(values), lanes.pixels)
    return sums.index_add(1, lanes.pixel_of, values)


def pixel_peaks(lanes: Lanes, values: Float[Tensor, "L D"]) -> Float[Tensor, "L P"]:
    """The largest size among the channels of each pixel."""
    if lanes.pixels == values.shape[1]:
        return values.abs()
    peaks = values.new_zeros(len(values), lanes.pixels)
    return peaks.scatter_reduce(1, lanes.pixel_of.expand_as(values), values.abs(), "amax")


def sizes(lanes: Lanes, offset: Float[Tensor, "L D"], norm: float) -> Float[Tensor, "L"]:
    """The norm of each offset; 0 counts pixels."""
    if norm == 0:
        return (pixel_peaks(lanes, offset) > 0).sum(dim=1).float()
    length: Tensor = torch.linalg.vector_norm(offset, ord=norm, dim=1)
    return length


def in_ball(
    lanes: Lanes, points: Float[Tensor, "L D"], radius: Float[Tensor, "L"], norm: float
) -> Float[Tensor, "L D"]:
    """The Euclidean projection onto the part of [0, 1]^D within the radius of the image.

    For norm 0 the pixels with the largest offsets inside the box stay.
    """
    if norm == 0:
        offset = points.clamp(0.0, 1.0) - lanes.images
        peaks = pixel_sums(lanes, offset.square())
        place = peaks.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        kept = (place < radius[:, None])[:, lanes.pixel_of]
        return torch.where(kept, points.clamp(0.0, 1.0), lanes.images)
    zero, one = torch.zeros_like(points), torch.ones_like(points)
    if norm == math.inf:
        zero = (lanes.images - radius[:, None]).clamp(min=0.0)
        one = (lanes.images + radius[:, None]).clamp(max=1.0)
    regions = RegionBatch(norm, zero, one, lanes.images, radius.float())
    return project(regions, points[:, None])[:, 0]
