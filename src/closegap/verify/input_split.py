"""Branch and bound over input boxes: complete (up to float spacing) where inputs are few.

Every box is bounded anew with many boxes in one batch: planes forward for all neurons; backward for
those still undecided, where the network is small enough for that to pay (on ACAS Xu it takes ten
times fewer boxes); backward for the property's rows. Before a box is split it is clipped: a
counterexample satisfies every row's linear lower bound `<= 0`, which cuts the box.
Source: relaxed clipping, Zhou et al., Clip-and-Verify, 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.forward import forward_activations
from closegap.bounds.intermediate import bound_activations
from closegap.bounds.regions import InputSet, least
from closegap.core.budget import Budget
from closegap.core.numerics import FLOAT64_UNIT, TINY, gamma
from closegap.encode.affine import affine_entries
from closegap.graph.network import Network
from closegap.verify.bab.pace import Pace
from closegap.verify.incomplete import LinearVerifier

__all__ = ["InputSplit", "InputSplitOptions", "InputSplitOutcome"]


@dataclass(frozen=True)
class InputSplitOptions:
    """How to search.

    Attributes:
        batch: boxes bounded at a time.
        first: boxes bounded at a time in the beginning, doubled until `batch`.
        offered: candidates offered from each batch.
    """

    batch: int = 1024
    first: int = 16
    offered: int = 16


@dataclass(frozen=True, eq=False)
class InputSplitOutcome:
    """What the search proved.

    Attributes:
        lower: proved lower bound of each clause over all boxes not closed; infinity when all are.
        boxes: bounded in all.
        open: not closed.
        broken: a candidate was accepted.
    """

    lower: NDArray[np.float64]
    boxes: int
    open: int
    broken: bool


@dataclass(frozen=True, eq=False)
class _Boxes:
    """Open boxes: free inputs only, and the proved bound of each clause, `[B, K]`."""

    lower: Float[Tensor, "B F"]
    upper: Float[Tensor, "B F"]
    proved: Float[Tensor, "B K"]

    def __len__(self) -> int:
        return len(self.lower)

    def pick(self, rows: Tensor) -> _Boxes:
        return _Boxes(self.lower[rows], self.upper[rows], self.proved[rows])

    @staticmethod
    def join(parts: list[_Boxes]) -> _Boxes:
        return _Boxes(
            torch.cat([p.lower for p in parts]),
            torch.cat([p.upper for p in parts]),
            torch.cat([p.proved for p in parts]),
        )


class InputSplit:
    """One search.

    Args:
        linear: the query's network and region.
        clauses: to prove.
        options: how to search.
        offer: judges candidates `[M, *input shape]`; True stops the search.
    """

    def __init__(
        self,
        linear: LinearVerifier,
        clauses: NDArray[np.int64],
        options: InputSplitOptions,
        offer: Callable[[NDArray[np.float64]], bool],
    ) -> None:
        self._linear = linear
        self._options = options
        self._offer = offer
        prop = linear.query.prop
        self._rows = np.flatnonzero(np.isin(prop.clause, clauses))
        member = prop.membership[np.ix_(clauses, self._rows)]
        self._member: Bool[Tensor, "K Q"] = torch.as_tensor(member)
        region = linear.exact_region
        self._lower, self._upper = region.lower.flatten(), region.upper.flatten()
        self._free = (self._upper > self._lower).nonzero()[:, 0]
        self._backward = _backward_pays(linear.query.network, len(self._free))
        self._bounded = 0
        self._broken = False

    def run(self, budget: Budget) -> InputSplitOutcome:
        """Search until every box is closed, a candidate is accepted, or the budget ends."""
        clauses = len(self._member)
        open_ = _Boxes(
            self._lower[self._free][None],
            self._upper[self._free][None],
            torch.full((1, clauses), -torch.inf, dtype=torch.float64),
        )
        count, pace = self._options.first, Pace(self._options.batch)
        stuck: list[_Boxes] = []
        while len(open_) and not self._broken and not budget.expired:
            order = torch.argsort(open_.proved.amin(dim=1), stable=True)
            taken = min(count, pace.batch(budget.remaining))
            batch, rest = open_.pick(order[:taken]), open_.pick(order[taken:])
            pace.begin()
            left = self._bound(batch, budget)
            pace.end(len(batch))
            if budget.expired or self._broken:
                open_ = _Boxes.join([left[0], rest])
                break
            halves, small = self._split(*left)
            stuck.extend([small] if len(small) else [])
            open_ = _Boxes.join([halves, rest])
            count = min(2 * count, self._options.batch)
        kept = _Boxes.join([open_, *stuck])
        lower = torch.full((clauses,), torch.inf, dtype=torch.float64)
        if len(kept):
            lower = torch.where(kept.proved > 0, torch.inf, kept.proved).amin(dim=0)
        return InputSplitOutcome(np.asarray(lower.numpy()), self._bounded, len(kept), self._broken)

    def _bound(self, boxes: _Boxes, budget: Budget) -> tuple[_Boxes, Tensor]:
        """Bound a batch: what is left of it, clipped, and how much each input matters `[B, F]`."""
        region = self._region(boxes)
        exact, output = self._linear.exact, self._linear.query.network.output
        prop = self._linear.query.prop
        with torch.no_grad():
            bounds = forward_activations(exact, region, self._free)
            if self._backward:
                bounds = bound_activations(exact, region, budget, known=bounds.activations)
            shape = self._linear.query.network.nodes[output].shape
            rows = exact.tensor(prop.rows[self._rows]).reshape(1, len(self._rows), *shape)
            rows = rows.expand(len(boxes), *rows.shape[1:])
            linear = BackwardPass(exact, bounds.activations, bounds.values).run(output, rows)
            value, rounding = least(region, linear.coefficients)
            offsets = exact.tensor(prop.offsets[self._rows])
            total = value + linear.constant + offsets
            slack = 2 * (rounding + linear.rounding) + 4 * FLOAT64_UNIT * total.abs()
            total = torch.where(torch.isfinite(total - slack), total - slack, -torch.inf)
        self._bounded += len(boxes)
        spread = torch.where(self._member[None], total[:, None, :], -torch.inf)
        proved = torch.maximum(boxes.proved, spread.amax(dim=2))
        planes = linear.coefficients.flatten(2)[..., self._free]
        least_at = torch.where(planes > 0, boxes.lower[:, None], boxes.upper[:, None])
        alive = ~(proved > 0).all(dim=1)
        kept = alive.nonzero()[:, 0]
        self._judge(least_at[kept], proved[kept])
        weight = (planes.abs() * self._relevant(proved)[..., None]).sum(dim=1)
        fixed = linear.constant + offsets + self._fixed_part(linear.coefficients)
        left = self._clip(_Boxes(boxes.lower, boxes.upper, proved), planes, fixed, slack)
        alive = alive & ~(left.lower > left.upper).any(dim=1)  # a NaN keeps its box
        return left.pick(alive), weight[alive]

    def _relevant(self, proved: Tensor) -> Tensor:
        """Rows of clauses that are still open, `[B, Q]`."""
        return ((proved <= 0)[..., None] & self._member[None]).any(dim=1).double()

    def _region(self, boxes: _Boxes) -> InputSet:
        count, shape = len(boxes), self._linear.query.network.input_shape
        lower = self._lower.repeat(count, 1)
        upper = self._upper.repeat(count, 1)
        lower[:, self._free], upper[:, self._free] = boxes.lower, boxes.upper
        whole = self._linear.exact_region
        return InputSet(
            lower.reshape(count, *shape),
            upper.reshape(count, *shape),
            whole.center,
            whole.radius,
            whole.norm,
        )

    def _fixed_part(self, coefficients: Tensor) -> Tensor:
        """What the inputs that are not free add to each plane, `[B, Q]`."""
        fixed = self._lower.clone()
        fixed[self._free] = 0
        return coefficients.flatten(2) @ fixed

    def _clip(self, boxes: _Boxes, planes: Tensor, constant: Tensor, slack: Tensor) -> _Boxes:
        """Cut each box by `plane <= 0` for the rows of its open clauses; a hull over clauses."""
        lower, upper = boxes.lower[:, None], boxes.upper[:, None]
        at_least = torch.where(planes > 0, planes * lower, planes * upper)
        rest = at_least.sum(dim=2, keepdim=True) - at_least
        size = (planes.abs() * torch.maximum(lower.abs(), upper.abs())).sum(dim=2, keepdim=True)
        safety = slack[..., None] + 4 * gamma(planes.shape[2] + 8) * size
        room = -(constant[..., None] + rest) + safety
        edge = room / torch.where(planes.abs() < TINY, torch.full_like(planes, TINY), planes)
        edge = edge + 8 * FLOAT64_UNIT * edge.abs() * torch.sign(planes)
        cut_upper = torch.where(planes > TINY, torch.minimum(upper, edge), upper)
        cut_lower = torch.where(planes < -TINY, torch.maximum(lower, edge), lower)
        cut_upper, cut_lower = _finite(cut_upper, upper), _finite(cut_lower, lower)
        inside = self._member[None, :, :, None]
        by_clause_low = torch.where(inside, cut_lower[:, None], -torch.inf).amax(dim=2)
        by_clause_high = torch.where(inside, cut_upper[:, None], torch.inf).amin(dim=2)
        empty = (by_clause_low > by_clause_high).any(dim=2)
        proved = torch.where(empty & (boxes.proved <= 0), _EMPTY, boxes.proved)
        done = (proved > 0)[..., None]
        low = torch.where(done, torch.inf, by_clause_low).amin(dim=1)
        high = torch.where(done, -torch.inf, by_clause_high).amax(dim=1)
        return _Boxes(torch.maximum(low, boxes.lower), torch.minimum(high, boxes.upper), proved)

    def _judge(self, points: Tensor, proved: Tensor) -> None:
        """Offer the minimisers of the boxes with the least bounds."""
        if not len(points):
            return
        order = torch.argsort(proved.amin(dim=1))[: self._options.offered]
        free = points[order].flatten(0, 1)
        whole = self._lower.repeat(len(free), 1)
        whole[:, self._free] = free
        shape = self._linear.query.network.input_shape
        self._broken = self._offer(np.asarray(whole.reshape(-1, *shape).numpy()))

    def _split(self, boxes: _Boxes, weight: Tensor) -> tuple[_Boxes, _Boxes]:
        """Halve each box at the input that matters most; boxes too small to halve apart."""
        width = boxes.upper - boxes.lower
        middle = boxes.lower + width / 2
        can = (middle > boxes.lower) & (middle < boxes.upper)
        small = ~can.any(dim=1)
        large = (~small).nonzero()[:, 0]
        score = torch.where(can, weight.clamp(min=TINY) * width, -torch.inf)[large]
        axis = score.argmax(dim=1, keepdim=True)
        kept, cut = boxes.pick(large), middle[large].gather(1, axis)
        first = kept.upper.scatter(1, axis, cut)
        second = kept.lower.scatter(1, axis, cut)
        halves = _Boxes.join(
            [
                _Boxes(kept.lower, first, kept.proved),
                _Boxes(second, kept.upper, kept.proved),
            ]
        )
        return halves, boxes.pick(small)


#: Backward bounds may cost this many times what forward ones do.
_WORTH = 100


def _backward_pays(network: Network, free: int) -> bool:
    """Compare the products both ways need for one box, every neuron undecided."""
    forward, backward = 0, 0
    feeding = set(network.pre_activations)
    for index, node in enumerate(network.nodes):
        if index and not node.is_activation:
            forward += affine_entries(node, [network.nodes[p] for p in node.inputs])
        if index in feeding:
            backward += 2 * node.size * forward
    return backward <= _WORTH * (free + 2) * forward


#: A clause whose cut box is empty has no counterexample there: proved, by no known margin.
_EMPTY = float(np.finfo(np.float32).tiny)


def _finite(cut: Tensor, known: Tensor) -> Tensor:
    return torch.where(torch.isfinite(cut), cut, known)
