"""Projected Adam on slopes and split multipliers, many rows and domains at a time.

Every value of the parameters inside their ranges gives a sound bound, so the search may run in
float32 and stop anywhere; what counts is one last evaluation in the dtype of the proof.
Source: Xu et al., alpha-CROWN, 2021; Wang et al., beta-CROWN, 2021; Kingma and Ba, Adam, 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass, lower_bound
from closegap.bounds.optimise.climb import Climb, Splits
from closegap.bounds.records import Parameters
from closegap.bounds.regions import InputSet
from closegap.bounds.rules import activation_rule
from closegap.core.budget import Budget
from closegap.core.errors import OptionError

__all__ = ["Ascent", "AscentOptions", "AscentResult"]

#: Domains leave the batch once this share of it is decided.
_COMPACT = 0.25


@dataclass(frozen=True)
class AscentOptions:
    """How to climb.

    Attributes:
        iterations: at most.
        slope_rate: Adam's step on slopes, in units of their range.
        split_rate: Adam's step on split multipliers, in units of their scale.
        weight_rate: on the multipliers of other constraints, likewise.
        decay: of all steps, each iteration.
        patience: stop after so many iterations in which no row gained.
        goal: rows above it are decided and need no more work.
        any_row: a domain is decided by its first decided row (a clause of several rows).

    Raises:
        OptionError: steps would grow.
    """

    iterations: int = 20
    slope_rate: float = 0.25
    split_rate: float = 0.25
    weight_rate: float = 0.05
    decay: float = 0.97
    patience: int = 10
    goal: float = 0.0
    any_row: bool = False

    def __post_init__(self) -> None:
        if self.decay > 1:
            raise OptionError(f"steps decay by a factor of at most 1, got {self.decay:g}")


@dataclass(frozen=True, eq=False)
class AscentResult:
    """The best bound of every row `[B, Q]`, with the parameters that gave it."""

    lower: Tensor
    parameters: Parameters
    iterations: int


@dataclass(frozen=True, eq=False)
class Ascent:
    """Optimises parameters over one region.

    Attributes:
        region: in the dtype of the search.
        options: how to climb.
    """

    region: InputSet
    options: AscentOptions = field(default_factory=AscentOptions)

    def run(
        self,
        bounder: BackwardPass,
        start: int,
        rows: Float[Tensor, "B Q ..."],
        budget: Budget,
        *,
        initial: Parameters | None = None,
        splits: Mapping[int, Splits] | None = None,
        offsets: Tensor | None = None,
    ) -> AscentResult:
        """Climb from `initial` (the rules' defaults where it has none).

        Args:
            bounder: in the dtype of the search; its bounds hold on the region.
            start: node the rows stand at.
            rows: what to bound from below, `[1 or B, Q, ...]`.
            budget: only its deadline is used here.
            initial: slopes, and multipliers of the bounder's constraints (else zero), to start
                from.
            splits: by node, the ranges of split multipliers and where they start; nodes behind
                `start` count too.
            offsets: broadcastable to `[B, Q]`.

        Returns:
            per row the best bound seen (offsets included), never worse than the first one.
        """
        reached = _ancestors(bounder, {start, *(splits or {})})
        slopes = self._slopes(bounder, reached, rows, initial)
        weights = self._weights(bounder, rows, initial)
        climb = Climb(bounder, slopes, splits or {}, weights)
        work = _Work(self, bounder, start, rows, offsets)
        stall, done = 0, 0
        for done in range(1, max(1, self.options.iterations) + 1):
            lower = work.bound(climb.parameters())
            gained = climb.remember(lower.detach())
            stall = 0 if gained else stall + 1
            open_ = self._open(climb.best)
            if done >= self.options.iterations or stall > self.options.patience:
                break
            if budget.expired or not bool(open_.any()) or not lower.requires_grad:
                break
            climb.step(lower, open_, self._rates(done), done)
            alive = open_.any(dim=1)
            if len(alive) > 1 and float(alive.sum()) <= (1 - _COMPACT) * len(alive):
                kept = alive.nonzero()[:, 0]
                climb.keep(kept)
                work.keep(kept)
        best, parameters = climb.result()
        return AscentResult(best, parameters, done)

    def _rates(self, count: int) -> dict[str, float]:
        """Adam's steps on each kind of parameter."""
        options = self.options
        decay = options.decay**count
        return {
            "slope": options.slope_rate * decay,
            "split": options.split_rate * decay,
            "weight": options.weight_rate * decay,
        }

    def _open(self, best: Tensor) -> Tensor:
        """Rows that still need work, `[B, Q]`."""
        open_ = best <= self.options.goal
        if self.options.any_row:
            open_ = open_.all(dim=1, keepdim=True).expand_as(open_)
        return open_

    def _weights(
        self, bounder: BackwardPass, rows: Tensor, initial: Parameters | None
    ) -> dict[int, Tensor]:
        """First multipliers of every set of constraints, `[B, Q, size]`."""
        given = (initial or Parameters()).weights
        domains = [
            len(rows),
            len(self.region.lower),
            *(len(b.lower) for b in bounder.bounds.values()),
        ]
        weights: dict[int, Tensor] = {}
        for place, constraints in enumerate(bounder.constraints):
            first = given.get(place)
            if first is None:
                first = rows.new_zeros(1, 1, constraints.size)
            shape = (max(domains), rows.shape[1], constraints.size)
            weights[place] = first.to(rows.dtype).expand(shape).clone()
        return weights

    def _slopes(
        self, bounder: BackwardPass, reached: set[int], rows: Tensor, initial: Parameters | None
    ) -> dict[int, Tensor]:
        """First slopes of every activation reached that has any choice."""
        graph = bounder.network.network
        given = (initial or Parameters()).slopes
        slopes: dict[int, Tensor] = {}
        for index in graph.activations:
            bounds = bounder.bounds.get(graph.nodes[index].inputs[0])
            if index not in reached or bounds is None:
                continue
            node = graph.nodes[index]
            rule = activation_rule(node.op)
            if not bool(rule.undecided(node, bounds).any()):
                continue
            first = given.get(index)
            if first is None:
                first = rule.default(node, bounds)[:, None]
            domains = max(len(rows), len(bounds.lower), len(self.region.lower))
            shape = (domains, rows.shape[1], *first.shape[2:])
            slopes[index] = first.to(rows.dtype).expand(shape).clone()
        return slopes


class _Work:
    """The batch still worked on: rows, bounds and boxes of the domains that are left."""

    def __init__(
        self,
        ascent: Ascent,
        bounder: BackwardPass,
        start: int,
        rows: Tensor,
        offsets: Tensor | None,
    ) -> None:
        self._region = ascent.region
        self._bounder = bounder
        self._start = start
        self._rows = rows
        self._offsets = rows.new_zeros(1, 1) if offsets is None else offsets

    def bound(self, parameters: Parameters) -> Tensor:
        """`[B, Q]`, with gradients."""
        found = lower_bound(self._bounder, self._region, self._start, self._rows, parameters)
        return found + self._offsets

    def keep(self, kept: Tensor) -> None:
        """Go on with some of the domains."""
        self._bounder = self._bounder.select(kept)
        self._region = self._region.select(kept)
        self._rows = self._rows if len(self._rows) == 1 else self._rows[kept]
        self._offsets = self._offsets if len(self._offsets) == 1 else self._offsets[kept]


def _ancestors(bounder: BackwardPass, ends: set[int]) -> set[int]:
    """The nodes that coefficients at `ends` pass on the way back, `ends` included."""
    graph = bounder.network.network
    found, stack = set(ends), list(ends)
    while stack:
        for parent in graph.nodes[stack.pop()].inputs:
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return found
