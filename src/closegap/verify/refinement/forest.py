"""Trees of all rows of one layer: each splits what costs its own bound most.

A tree belongs to one row, so it needs a few splits where a tree for the whole network needs one
for every neuron that matters to anything. The bound of a row is the least of its leaves'.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from closegap.core.budget import Budget
from closegap.verify.refinement.passes import Leaves, RowBounds, RowPasses

__all__ = ["Forest", "ForestOptions"]


@dataclass(frozen=True)
class ForestOptions:
    """How to search.

    Attributes:
        first: evaluations on a row's root, while slopes are sought.
        others: on every other leaf.
        grown: leaves of a row that cannot decide its neuron, at most: they only make it tighter.
        near: a row is left where its bound is so near to an attained value, relative to both.
        deeper: every so many rounds each row has one more leaf split at a time.
        between: in one round of so many, rows that cannot decide their neuron take part.
    """

    first: int = 20
    others: int = 3
    grown: int = 64
    near: float = 0.02
    deeper: int = 8
    between: int = 4


class Forest:
    """The rows `z` and `-z` of some neurons of a layer.

    Args:
        passes: through the stages before it.
        weight: of the neurons, by the last stage's, float64 `[K, N]`.
        bias: float64 `[K]`.
        options: how to search.
        budget: its deadline ends the work on roots and the rounds; what it leaves no time for keeps
            the bound of the leaf it was split from. Nothing else of it is read.
    """

    def __init__(
        self,
        passes: RowPasses,
        weight: Float[Tensor, "K N"],
        bias: Float[Tensor, "K"],
        options: ForestOptions,
        budget: Budget,
    ) -> None:
        self._passes = passes
        self._budget = budget
        self._options = options
        self._weight, self._bias = torch.cat([weight, -weight]), torch.cat([bias, -bias])
        count = len(self._bias)
        #: Least bound of leaves that are closed, by row, and least value attained, no proof.
        self._closed = torch.full((count,), torch.inf, dtype=torch.float64)
        self._attained = torch.full((count,), torch.inf, dtype=torch.float64)
        self._made = torch.zeros(count, dtype=torch.long)
        self._rounds = 0
        rows = torch.arange(count)
        found = self._bounded(rows, passes.start(count), options.first)
        self._row, self._lower, self._unit, self._leaves = (
            rows[:0],
            found.lower[:0],
            rows[:0],
            found.leaves.select(slice(0)),
        )
        self._add(rows, found.lower, found)

    @property
    def size(self) -> int:
        """Leaves made so far."""
        return int(self._made.sum())

    @property
    def nbytes(self) -> int:
        """Of what is kept."""
        return len(self._row) * (9 * self._leaves.signs.shape[1] + 24)

    def bounds(self) -> tuple[Float[Tensor, "K"], Float[Tensor, "K"]]:
        """Proved lower and upper bounds of the neurons."""
        least = self._closed.scatter_reduce(0, self._row, self._lower, "amin")
        count = len(least) // 2
        return least[:count], -least[count:]

    def grow(self) -> bool:
        """Split the worst leaves of rows that may gain; False if there is none."""
        wanted = self._wanted()
        order = torch.argsort(self._lower)
        order = order[torch.argsort(self._row[order], stable=True)]
        rows = self._row[order]
        place = torch.arange(len(rows)) - torch.searchsorted(rows, rows)
        most = 1 + self._rounds // self._options.deeper
        self._rounds += 1
        picked = order[(place < most) & wanted[rows]]
        if not len(picked):
            return False
        self._split(picked)
        return True

    def _wanted(self) -> Bool[Tensor, "R"]:
        """Rows to work on: what may decide a neuron first, and now and then what it is like."""
        low, high = self.bounds()
        open_ = ((low < 0) & (high > 0)).repeat(2)
        lower, attained = torch.cat([low, -high]), self._attained
        gains = attained - lower > self._options.near * (attained.abs() + lower.abs())
        left = torch.zeros(len(open_), dtype=torch.bool)
        left[self._row] = True
        open_ &= gains & left
        deciding = open_ & (attained > 0)
        others = open_ & (attained <= 0) & (self._made < self._options.grown)
        if not deciding.any() or self._rounds % self._options.between == 0:
            return deciding | others
        return deciding

    def _split(self, picked: Int[Tensor, "M"]) -> None:
        """Replace leaves by their halves."""
        count = len(picked)
        rows, units = self._row[picked].repeat(2), self._unit[picked]
        halves = self._leaves.select(picked.repeat(2))
        signs = halves.signs.clone()
        signs[torch.arange(count), units] = 1
        signs[torch.arange(count) + count, units] = -1
        halves = Leaves(signs, halves.slopes, halves.multipliers)
        found = self._bounded(rows, halves, self._options.others)
        lower = torch.maximum(found.lower, self._lower[picked].repeat(2))
        kept = torch.ones(len(self._row), dtype=torch.bool)
        kept[picked] = False
        self._keep(kept)
        self._add(rows, lower, found)

    def _bounded(self, rows: Int[Tensor, "M"], leaves: Leaves, iterations: int) -> RowBounds:
        weight, bias = self._weight[rows], self._bias[rows]
        found = self._passes.bound(weight, bias, leaves, iterations, self._budget)
        values = self._passes.values(found.points)
        attained = (values.double() * self._weight[rows]).sum(dim=1) + self._bias[rows]
        self._attained.scatter_reduce_(0, rows, attained, "amin")
        self._made += torch.bincount(rows, minlength=len(self._made))
        return found

    def _add(self, rows: Int[Tensor, "M"], lower: Float[Tensor, "M"], found: RowBounds) -> None:
        """Keep leaves that splits may help; of the others the bound."""
        losses = torch.nn.functional.pad(found.losses, (0, 1))  # there may be nothing to split
        loss, unit = losses.max(dim=1)
        left = (lower <= 0) & (lower < self._attained[rows]) & (loss > 0)
        self._closed.scatter_reduce_(0, rows[~left], lower[~left], "amin")
        self._row = torch.cat([self._row, rows[left]])
        self._lower = torch.cat([self._lower, lower[left]])
        self._unit = torch.cat([self._unit, unit[left]])
        self._leaves = self._leaves.join(found.leaves.select(left))
        low, high = self.bounds()
        open_ = ((low < 0) & (high > 0)).repeat(2)[self._row]
        self._closed.scatter_reduce_(0, self._row[~open_], self._lower[~open_], "amin")
        self._keep(open_)

    def _keep(self, kept: Bool[Tensor, "M"]) -> None:
        self._row, self._lower, self._unit = self._row[kept], self._lower[kept], self._unit[kept]
        self._leaves = self._leaves.select(kept)
