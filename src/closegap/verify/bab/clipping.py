"""Boxes of subdomains: cut where no counterexample is, and what units can be on what is left.

Below every unit and below its opposite lies a plane of the input that holds on the whole region.
A split turns one of them into a half-space, and a clause's own linear bound is at most zero where
it is broken. Both cut a domain's box coordinate by coordinate; its children begin with that
box, on which the planes bound every unit anew. A box holds every counterexample of its domain: a
bound over it that is not positive holds for the whole domain.

Source: relaxed clipping, Zhou et al., Clip-and-Verify, NeurIPS 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.records import Interval, LinearBound
from closegap.bounds.regions import InputSet, least
from closegap.core.errors import OptionError
from closegap.core.numerics import FLOAT64_UNIT, TINY
from closegap.verify.bab.domains import DomainBatch, DomainResult, unit_walls
from closegap.verify.bab.planes import planes_below
from closegap.verify.bab.problem import Layer, SplitProblem
from closegap.verify.bab.walls import Walls
from closegap.verify.clipping import cut_sides

__all__ = ["Clipped", "Clipping", "ClippingOptions", "leaf_walls"]


@dataclass(frozen=True)
class ClippingOptions:
    """Where the boxes of subdomains are cut.

    Attributes:
        inputs: free inputs at most; 0 for never. Boxes take two numbers an input, and what a unit
            can be takes a product with all of them. On ACAS Xu and 64-pixel digits a domain took a
            third more time and trees were no smaller.
        trial: domains after which it is decided whether to go on.
        least: of the boxes' widths, the mean share that must be cut off by then.

    Raises:
        OptionError: the share is none.
    """

    inputs: int = 0
    trial: int = 256
    least: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1:
            raise OptionError(f"the least share must lie between 0 and 1, got {self.least}")


@dataclass(frozen=True, eq=False)
class Clipped:
    """Boxes of B domains.

    Attributes:
        region: what is left of the input region, float64.
        low: of every unit there, `[B, U]`.
        high: likewise.
        empty: where nothing is left; the box is the whole region's there, `[B]`.
    """

    region: InputSet
    low: Float[Tensor, "B U"]
    high: Float[Tensor, "B U"]
    empty: Bool[Tensor, "B"]

    def tightened(self, bounds: Mapping[int, Interval], layers: tuple[Layer, ...]) -> Clipped:
        """With domains as empty where a unit's bounds exclude each other."""
        empty = self.empty.clone()
        for layer in layers:
            known = bounds[layer.feed]
            lower = known.lower.flatten(1)[:, layer.indices]
            upper = known.upper.flatten(1)[:, layer.indices]
            low, high = self.low[:, layer.units], self.high[:, layer.units]
            empty |= (torch.maximum(lower, low) > torch.minimum(upper, high)).any(dim=1)
        return replace(self, empty=empty)

    def bounds(
        self, known: Mapping[int, Interval], layers: tuple[Layer, ...]
    ) -> dict[int, Interval]:
        """The tighter of known bounds and these; known ones where a domain is empty."""
        found = dict(known)
        none = self.empty[:, None]
        inf = self.low.new_full((), torch.inf)
        for layer in layers:
            units = layer.units
            low = torch.where(none, -inf, self.low[:, units])
            high = torch.where(none, inf, self.high[:, units])
            loose = replace(layer, strict=False)  # zero itself may be on either side here
            found[layer.feed] = loose.constrained(known[layer.feed], Walls(low, high))
        return found


class Clipping:
    """Cuts the boxes of one problem's domains.

    Args:
        problem: what they share.
        options: where it is done.

    Attributes:
        domains: that were cut.
        shrunk: sum over them of the mean share of the widths that was cut off.
    """

    def __init__(self, problem: SplitProblem, options: ClippingOptions) -> None:
        self._problem = problem
        self._options = options
        region = problem.exact_region
        self._lower, self._upper = region.lower.flatten(), region.upper.flatten()
        self._free = self._upper > self._lower
        self._planes: tuple[Tensor, Tensor] | None = None
        self.domains, self.shrunk = 0, 0.0

    @property
    def active(self) -> bool:
        """True iff boxes are cut."""
        tried = self.domains >= self._options.trial
        return self.possible and (not tried or self.shrunk >= self._options.least * self.domains)

    @property
    def possible(self) -> bool:
        """True iff boxes are cut until they say that it does not pay."""
        return bool(self._problem.units) and 0 < int(self._free.sum()) <= self._options.inputs

    @property
    def width(self) -> int:
        """Numbers a box; none where no box is cut."""
        return 2 * len(self._lower) if self.possible else 0

    @property
    def counts(self) -> Float[np.ndarray, "2"]:
        """What a continued search needs: `domains` and `shrunk`."""
        return np.array([self.domains, self.shrunk])

    @counts.setter
    def counts(self, known: Float[np.ndarray, "2"]) -> None:
        """Go on with what was counted before."""
        self.domains, self.shrunk = int(known[0]), float(known[1])

    def known(
        self, boxes: NDArray[np.generic], found: NDArray[np.bool_]
    ) -> NDArray[np.float64] | None:
        """Boxes, the whole region's where none was found; `None` where none are cut."""
        if not self.active:
            return None
        return np.where(found[:, None], boxes.astype(np.float64), self.whole(len(boxes)))

    def whole(self, count: int) -> NDArray[np.float64]:
        """The region's own box, so many times."""
        both = torch.cat([self._lower, self._upper])
        return np.asarray(both.expand(count, -1).clone().numpy())

    def cut(
        self, boxes: NDArray[np.float64], walls: Walls, known: Mapping[int, Interval]
    ) -> Clipped:
        """Cut boxes by splits, and bound the units there.

        Args:
            boxes: that hold every counterexample of a domain, `[B, width]`.
            walls: of its splits.
            known: bounds of the feeding nodes under the splits.
        """
        normals, constant = self._unit_planes()
        lower, upper = torch.as_tensor(boxes).tensor_split(2, dim=1)
        # z >= low has -z's plane at most -low, z <= high has z's plane at most high
        side = torch.cat([walls.low, -walls.high], dim=1)
        count = int(side.isfinite().sum(dim=1).max()) if len(side) else 0
        units = self._problem.units
        held, place = side.isfinite().double().topk(count, dim=1)
        given = side.gather(1, place)
        use = held > 0
        plane = (place + units) % (2 * units)  # planes of z first, of -z after them
        chosen = torch.where(use[..., None], normals[plane], 0.0)
        level = torch.where(use, constant[plane] + given, 0.0)
        slack = 8 * FLOAT64_UNIT * level.abs()
        lower, upper, empty = self._narrowed(chosen, level, slack, lower, upper)
        region = self._region(lower, upper)
        value, rounding = least(region, normals.expand(len(lower), -1, -1))
        total = value + constant
        total = total - 2 * rounding - 8 * FLOAT64_UNIT * total.abs()
        low, high = total[:, :units], -total[:, units:]
        found = Clipped(region, _known(low, -torch.inf), _known(high, torch.inf), empty)
        return found.tightened(known, self._problem.layers)

    def after(
        self, clipped: Clipped, linear: LinearBound, offsets: Tensor
    ) -> tuple[NDArray[np.float64], Bool[Tensor, "B"]]:
        """The boxes where all rows' linear bounds are at most zero, and which are empty.

        Args:
            clipped: the boxes that they hold on.
            linear: of the rows, float64, rounding known.
            offsets: of the rows, `[B, Q]`.
        """
        region = clipped.region
        lower, upper = region.lower.flatten(1), region.upper.flatten(1)
        nodes = len(self._problem.exact.network.nodes)
        reach = torch.maximum(self._lower.abs(), self._upper.abs())
        rows, constant = planes_below(linear, offsets, reach, nodes)
        low, high, empty = self._narrowed(rows, constant, torch.zeros_like(constant), lower, upper)
        free = self._free
        width = (self._upper - self._lower)[free]
        share = 1 - ((high - low)[:, free] / width).mean(dim=1)
        self.domains += len(share)
        self.shrunk += float(torch.where(empty | clipped.empty, 0.0, share).sum())
        return np.asarray(torch.cat([low, high], dim=1).numpy()), empty

    def _narrowed(
        self, planes: Tensor, constant: Tensor, slack: Tensor, lower: Tensor, upper: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes cut by all half-spaces; empty ones are the region's own."""
        sides = cut_sides(planes, constant, slack, lower, upper)
        low = torch.maximum(lower, sides[0].amax(dim=1)) if planes.shape[1] else lower
        high = torch.minimum(upper, sides[1].amin(dim=1)) if planes.shape[1] else upper
        empty = (low > high).any(dim=1)
        low = torch.where(empty[:, None], self._lower, low)
        return low, torch.where(empty[:, None], self._upper, high), empty

    def _region(self, lower: Tensor, upper: Tensor) -> InputSet:
        known = self._problem.exact_region
        shape = known.lower.shape[1:]
        return replace(known, lower=lower.reshape(-1, *shape), upper=upper.reshape(-1, *shape))

    def _unit_planes(self) -> tuple[Tensor, Tensor]:
        """Planes below every unit, then below its opposite: `[2 U, D]`, `[2 U]`."""
        if self._planes is None:
            problem = self._problem
            below = BackwardPass(problem.exact, problem.bounds, problem.values, problem.slack)
            reach = torch.maximum(self._lower.abs(), self._upper.abs())
            nodes = problem.exact.network.nodes
            parts: list[tuple[Tensor, Tensor]] = []
            for layer in problem.layers:
                count, shape = len(layer.indices), nodes[layer.feed].shape
                rows = torch.zeros(2, count, int(np.prod(shape)), dtype=torch.float64)
                rows[0, torch.arange(count), layer.indices] = 1.0
                rows[1, torch.arange(count), layer.indices] = -1.0
                with torch.no_grad():
                    found = below.run(layer.feed, rows.reshape(2, count, *shape))
                parts.append(planes_below(found, torch.zeros(1, 1).double(), reach, len(nodes)))
            normals = torch.cat([p[0] for p in parts], dim=1).flatten(0, 1)
            constant = torch.cat([p[1].expand(2, -1) for p in parts], dim=1).flatten()
            self._planes = normals, constant
        return self._planes


def leaf_walls(batch: DomainBatch, result: DomainResult, problem: SplitProblem) -> Walls:
    """The walls of leaves: splits, and where boxes are cut, what these say of units beyond them."""
    walls = unit_walls(batch, problem.units)
    if result.boxes is None:
        return walls
    lower, upper = result.unit_lower, result.unit_upper
    least, most = torch.full_like(lower, -torch.inf), torch.full_like(upper, torch.inf)
    for layer in problem.layers:
        known = problem.bounds[layer.feed]
        low, high = (s.flatten(1)[:, layer.indices] for s in (known.lower, known.upper))
        part = layer.units
        least[:, part] = torch.where(lower[:, part] > low, lower[:, part], -torch.inf)
        most[:, part] = torch.where(upper[:, part] < high, upper[:, part], torch.inf)
    return walls.intersect(Walls(least, most))


def _known(side: Tensor, nothing: float) -> Tensor:
    """A bound that is not finite says nothing."""
    return torch.where(side.abs() < 1 / TINY, side, nothing)
