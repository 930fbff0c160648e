"""Branch and bound over input boxes: complete (up to float spacing) where inputs are few.

Every box is bounded anew with many boxes in one batch (`box_bounds`). Before a box is split it is
clipped: a counterexample satisfies every row's linear lower bound `<= 0`, which cuts the box. It is
split at the input to blame for most of what the relaxations lose: halving that input's width takes
this share of every intercept away. On ACAS Xu's hard properties that takes ten to a hundred times
fewer boxes than splitting where the row's own plane is steepest.
Source: relaxed clipping, Zhou et al., Clip-and-Verify, 2025.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from closegap.core.budget import Budget
from closegap.core.numerics import TINY
from closegap.verify.bab.pace import Pace
from closegap.verify.box_bounds import box_bounder
from closegap.verify.box_store import Boxes, BoxStore
from closegap.verify.clipping import cut_sides
from closegap.verify.incomplete import LinearVerifier

__all__ = ["InputSplit", "InputSplitOptions", "InputSplitOutcome"]


@dataclass(frozen=True)
class InputSplitOptions:
    """How to search.

    Attributes:
        batch: boxes bounded at a time.
        first: boxes bounded at a time in the beginning, doubled until `batch`.
        offered: candidates offered from each batch.
        attacked: boxes bounded before the first attack; doubled for each that follows.
    """

    batch: int = 1024
    first: int = 16
    offered: int = 16
    attacked: int = 1024


@dataclass(frozen=True, eq=False)
class InputSplitOutcome:
    """What the search proved.

    Attributes:
        lower: proved lower bound of each clause over all boxes not closed; infinity when all are.
        boxes: bounded in all.
        open: not closed.
        depth: of the deepest box.
        broken: a candidate was accepted.
        full: the budget's boxes were spent.
    """

    lower: NDArray[np.float64]
    boxes: int
    open: int
    depth: int
    broken: bool
    full: bool


class InputSplit:
    """One search.

    Args:
        linear: the query's network and region.
        clauses: to prove.
        options: how to search.
        offer: judges candidates `[M, *input shape]`; True stops the search.
        attack: tries something else now and then, given how often before; True likewise.
    """

    def __init__(
        self,
        linear: LinearVerifier,
        clauses: NDArray[np.int64],
        options: InputSplitOptions,
        offer: Callable[[NDArray[np.float64]], bool],
        attack: Callable[[int], bool] | None = None,
    ) -> None:
        self._linear = linear
        self._options = options
        self._offer = offer
        self._attack = attack
        self._attacks = 0
        prop = linear.query.prop
        self._rows = np.flatnonzero(np.isin(prop.clause, clauses))
        member = prop.membership[np.ix_(clauses, self._rows)]
        self._member: Bool[Tensor, "K Q"] = torch.as_tensor(member)
        region = linear.exact_region
        self._lower, self._upper = region.lower.flatten(), region.upper.flatten()
        self._free = (self._upper > self._lower).nonzero()[:, 0]
        self._bounder = box_bounder(linear, self._free, self._rows)
        self._bounded = self._depth = 0
        self._nearest = np.inf
        self._broken = False

    def run(self, budget: Budget) -> InputSplitOutcome:
        """Search until every box is closed, a candidate is accepted, or the budget ends."""
        whole = self._whole()
        open_ = BoxStore(whole, _WIDE * self._options.batch)
        stuck = BoxStore(whole, 0)
        open_.put(whole)
        count, pace = self._options.first, Pace(self._options.batch)
        while len(open_) and not self._broken and not budget.expired:
            if budget.nodes is None:
                taken = min(count, pace.batch(budget.remaining))
            else:  # not by the clock: the same boxes in every run
                taken = min(count, budget.nodes - self._bounded)
            if taken <= 0:
                break
            batch = open_.take(taken)
            pace.begin()
            left, gain = self._bound(batch, budget)
            pace.end(len(batch))
            self._try_attack()
            if budget.expired or self._broken:
                open_.put(left)
                break
            halves, small = self._split(left, gain)
            stuck.put(small)
            open_.put(halves)
            count = min(2 * count, self._options.batch)
        least = torch.minimum(open_.boxes.least, stuck.boxes.least)
        return InputSplitOutcome(
            lower=np.asarray(least.numpy()),
            boxes=self._bounded,
            open=len(open_) + len(stuck),
            depth=self._depth,
            broken=self._broken,
            full=budget.nodes is not None and self._bounded >= budget.nodes and len(open_) > 0,
        )

    def _whole(self) -> Boxes:
        return Boxes(
            self._lower[self._free][None],
            self._upper[self._free][None],
            torch.full((1, len(self._member)), -torch.inf, dtype=torch.float64),
            torch.zeros((1, self._bounder.signs), dtype=torch.int8),
            torch.zeros(1, dtype=torch.int64),
        )

    def _try_attack(self) -> None:
        """Attack when the boxes have doubled: many open boxes often mean a counterexample."""
        due = self._bounded >= self._options.attacked << self._attacks
        if self._attack is not None and due and not self._broken:
            self._broken = self._attack(self._attacks)
            self._attacks += 1

    def _bound(self, boxes: Boxes, budget: Budget) -> tuple[Boxes, Tensor]:
        """Bound a batch.

        Returns:
            what is left of it, clipped, and what halving each input may gain, `[B, F]`.
        """
        with torch.no_grad():
            found = self._bounder.bound(boxes, budget)
        self._bounded += len(boxes)
        self._depth = max(self._depth, int(boxes.depth.max()))
        spread = torch.where(self._member[None], found.lower[:, None, :], -torch.inf)
        proved = torch.maximum(boxes.proved, spread.amax(dim=2))
        alive = (~(proved > 0).all(dim=1)).nonzero()[:, 0]
        left = replace(boxes, proved=proved, signs=found.signs).pick(alive)
        planes = found.planes[alive]
        width = (left.upper - left.lower)[:, None]
        gain = _RANGE_SHARE * planes.abs() * width + found.blame[alive]
        gain = (gain * self._relevant(left.proved)[..., None]).sum(dim=1)
        left = self._clip(left, planes, found.constant[alive], found.slack[alive])
        filled = ~(left.lower > left.upper).any(dim=1)  # a NaN keeps its box
        left = left.pick(filled)
        self._judge(self._candidates(left, planes[filled]), left.proved)
        return left, gain[filled]

    def _candidates(self, boxes: Boxes, planes: Tensor) -> Tensor:
        """Of each box the middle, and where each row's plane is least, `[B, 1 + Q, F]`."""
        lower, upper = boxes.lower[:, None], boxes.upper[:, None]
        return torch.cat([(lower + upper) / 2, torch.where(planes > 0, lower, upper)], dim=1)

    def _relevant(self, proved: Tensor) -> Tensor:
        """Rows of clauses that are still open, `[B, Q]`."""
        return ((proved <= 0)[..., None] & self._member[None]).any(dim=1).double()

    def _clip(self, boxes: Boxes, planes: Tensor, constant: Tensor, slack: Tensor) -> Boxes:
        """Cut each box by `plane <= 0` for the rows of its open clauses; a hull over clauses."""
        cut_lower, cut_upper = cut_sides(planes, constant, slack, boxes.lower, boxes.upper)
        inside = self._member[None, :, :, None]
        by_clause_low = torch.where(inside, cut_lower[:, None], -torch.inf).amax(dim=2)
        by_clause_high = torch.where(inside, cut_upper[:, None], torch.inf).amin(dim=2)
        empty = (by_clause_low > by_clause_high).any(dim=2)
        proved = torch.where(empty & (boxes.proved <= 0), _EMPTY, boxes.proved)
        done = (proved > 0)[..., None]
        low = torch.where(done, torch.inf, by_clause_low).amin(dim=1)
        high = torch.where(done, -torch.inf, by_clause_high).amax(dim=1)
        low, high = torch.maximum(low, boxes.lower), torch.minimum(high, boxes.upper)
        return replace(boxes, lower=low, upper=high, proved=proved)

    def _judge(self, points: Tensor, proved: Tensor) -> None:
        """Offer minimisers of rows `[B, Q, F]`: those that come nearest to a counterexample.

        Where that is not known before, those of the boxes with the least bounds.
        """
        if not len(points) or not self._options.offered:
            return
        order = torch.argsort(proved.amin(dim=1))[: _LOOKED_AT * self._options.offered]
        free = points[order].flatten(0, 1)
        margins = self._bounder.margins(free)
        if margins is None:
            free = points[order[: self._options.offered]].flatten(0, 1)
        else:
            clauses = torch.where(self._member[None], margins[:, None, :], -torch.inf).amax(dim=2)
            least, place = torch.sort(clauses.amin(dim=1))
            free = free[place[least < self._nearest][: self._options.offered]]
            self._nearest = min(self._nearest, float(least[0]))
        if not len(free):
            return
        whole = self._lower.repeat(len(free), 1)
        whole[:, self._free] = free
        shape = self._linear.query.network.input_shape
        self._broken = self._offer(np.asarray(whole.reshape(-1, *shape).numpy()))

    def _split(self, boxes: Boxes, gain: Tensor) -> tuple[Boxes, Boxes]:
        """Halve each box at the input that promises most; boxes too small to halve apart."""
        width = boxes.upper - boxes.lower
        middle = boxes.lower + width / 2
        can = (middle > boxes.lower) & (middle < boxes.upper)
        small = ~can.any(dim=1)
        large = (~small).nonzero()[:, 0]
        score = torch.where(can, torch.fmax(gain, TINY * width), -torch.inf)[large]
        axis = score.argmax(dim=1, keepdim=True)
        kept, cut = boxes.pick(large), middle[large].gather(1, axis)
        both = kept.pick(torch.arange(len(kept)).repeat(2))
        halves = replace(
            both,
            lower=torch.cat([kept.lower, kept.lower.scatter(1, axis, cut)]),
            upper=torch.cat([kept.upper.scatter(1, axis, cut), kept.upper]),
            depth=both.depth + 1,
        )
        return halves, boxes.pick(small)


#: A plane is exact: to halve its range helps one of the halves, and clipping cuts it already. Of
#: its range so much counts beside what relaxations lose.
_RANGE_SHARE = 0.2
#: Minimisers are evaluated for this many times the boxes that are offered.
_LOOKED_AT = 16
#: With more open boxes than this many batches the search goes into depth.
_WIDE = 64

#: A clause whose cut box is empty has no counterexample there: proved, by no known margin.
_EMPTY = float(np.finfo(np.float32).tiny)
