"""Projected Adam on slopes and split multipliers, many rows and domains at a time.

Every value of the parameters inside their ranges gives a sound bound, so the search may run in
float32 and stop anywhere; what counts is one last evaluation in the dtype of the proof.
Source: Xu et al., alpha-CROWN, 2021; Wang et al., beta-CROWN, 2021; Kingma and Ba, Adam, 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass, lower_bound
from closegap.bounds.records import Parameters
from closegap.bounds.regions import InputSet
from closegap.bounds.rules import activation_rule
from closegap.core.budget import Budget
from closegap.core.numerics import SEARCH_EPSILON

__all__ = ["Ascent", "AscentOptions", "AscentResult"]

_MOMENTUM, _VARIANCE = 0.9, 0.999
#: Rows are dropped from the work once this share of them is decided.
_COMPACT = 0.25


@dataclass(frozen=True)
class AscentOptions:
    """How to climb.

    Attributes:
        iterations: at most.
        slope_rate: Adam's step on slopes, in units of their range.
        split_rate: Adam's step on split multipliers.
        decay: of both steps, each iteration.
        patience: stop after so many iterations in which no row gained.
        goal: rows above it are decided and need no more work.
    """

    iterations: int = 20
    slope_rate: float = 0.25
    split_rate: float = 0.05
    decay: float = 0.97
    patience: int = 10
    goal: float = 0.0


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
        offsets: Tensor | None = None,
    ) -> AscentResult:
        """Climb from `initial` (the rules' defaults where it has none).

        Args:
            bounder: in the dtype of the search; its bounds hold on the region.
            start: node the rows stand at.
            rows: what to bound from below.
            budget: only its deadline is used here.
            initial: split multipliers present here are optimised too; their signs are kept.
            offsets: broadcastable to `[B, Q]`.

        Returns:
            per row the best bound seen (offsets included), never worse than the first one.
        """
        state = self._begin(bounder, start, rows, initial)
        shift = rows.new_zeros(1) if offsets is None else offsets
        best, stall, done = None, 0, 0
        for iteration in range(max(1, self.options.iterations)):
            lower = lower_bound(bounder, self.region, start, rows, state.parameters()) + shift
            value = lower.detach()
            best, gained = state.remember(value, best)
            done = iteration + 1
            stall = 0 if gained else stall + 1
            open_ = best <= self.options.goal
            ending = stall > self.options.patience or budget.expired or not bool(open_.any())
            if ending or done >= self.options.iterations or not lower.requires_grad:
                break
            state.step(lower, open_, self.options, done)
        assert best is not None
        return AscentResult(best, state.best_parameters(), done)

    def _begin(
        self, bounder: BackwardPass, start: int, rows: Tensor, initial: Parameters | None
    ) -> _Climb:
        """Parameters of every activation between the input and `start` that has any choice."""
        graph = bounder.network.network
        given = initial or Parameters()
        slopes: dict[int, Tensor] = {}
        reached = _ancestors(bounder, start)
        for index in graph.activations:
            bounds = bounder.bounds.get(graph.nodes[index].inputs[0])
            if index not in reached or bounds is None:
                continue
            node = graph.nodes[index]
            rule = activation_rule(node.op)
            if not bool(rule.undecided(node, bounds).any()):
                continue
            first = given.slopes.get(index)
            if first is None:
                first = rule.default(node, bounds)[:, None]
            domains = max(len(rows), len(bounds.lower), len(self.region.lower))
            shape = (domains, rows.shape[1], *first.shape[2:])
            slopes[index] = first.to(rows.dtype).expand(shape).clone()
        splits = {i: s.to(rows.dtype).clone() for i, s in given.splits.items() if i in reached}
        return _Climb(bounder, slopes, splits)


def _ancestors(bounder: BackwardPass, start: int) -> set[int]:
    graph = bounder.network.network
    found, stack = {start}, [start]
    while stack:
        for parent in graph.nodes[stack.pop()].inputs:
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return found


class _Climb:
    """The moving part: current parameters, Adam's moments, and the best parameters of each row."""

    def __init__(
        self, bounder: BackwardPass, slopes: Mapping[int, Tensor], splits: Mapping[int, Tensor]
    ) -> None:
        self._bounder = bounder
        self._signs = {i: torch.sign(s) for i, s in splits.items()}
        self._values: dict[tuple[str, int], Tensor] = {
            **{("slope", i): s.requires_grad_() for i, s in slopes.items()},
            **{("split", i): s.abs().requires_grad_() for i, s in splits.items()},
        }
        self._mean = {k: torch.zeros_like(v) for k, v in self._values.items()}
        self._square = {k: torch.zeros_like(v) for k, v in self._values.items()}
        self._best = {k: v.detach().clone() for k, v in self._values.items()}

    def parameters(self) -> Parameters:
        """The current parameters, with gradients."""
        return self._pack(self._values)

    def best_parameters(self) -> Parameters:
        """The parameters behind each row's best bound."""
        return self._pack(self._best)

    def _pack(self, values: Mapping[tuple[str, int], Tensor]) -> Parameters:
        slopes = {i: v for (kind, i), v in values.items() if kind == "slope"}
        splits = {i: v * self._signs[i] for (kind, i), v in values.items() if kind == "split"}
        return Parameters(slopes, splits)

    def remember(self, value: Tensor, best: Tensor | None) -> tuple[Tensor, bool]:
        """Keep each row's parameters where its bound is the best so far."""
        if best is None:
            return value, True
        better: Bool[Tensor, "B Q"] = value > best
        if not bool(better.any()):
            return best, False
        for key, kept in self._best.items():
            mask = better.reshape(*better.shape, *(1,) * (kept.dim() - 2))
            self._best[key] = torch.where(mask, self._values[key].detach(), kept)
        return torch.where(better, value, best), True

    def step(self, lower: Tensor, open_: Tensor, options: AscentOptions, count: int) -> None:
        """One projected Adam step on the sum of the open rows' bounds."""
        keys = list(self._values)
        loss = torch.where(open_, lower, torch.zeros_like(lower)).sum()
        gradients = torch.autograd.grad(loss, [self._values[k] for k in keys], allow_unused=True)
        decay = options.decay**count
        for key, gradient in zip(keys, gradients, strict=True):
            if gradient is None:
                continue
            rate = (options.slope_rate if key[0] == "slope" else options.split_rate) * decay
            self._values[key] = self._moved(key, gradient, rate, count)

    def _moved(self, key: tuple[str, int], gradient: Tensor, rate: float, count: int) -> Tensor:
        mean = self._mean[key].mul_(_MOMENTUM).add_(gradient, alpha=1 - _MOMENTUM)
        square = self._square[key].mul_(_VARIANCE).addcmul_(gradient, gradient, value=1 - _VARIANCE)
        root = (square / (1 - _VARIANCE**count)).sqrt_().add_(SEARCH_EPSILON)
        with torch.no_grad():
            moved = self._values[key] + rate / (1 - _MOMENTUM**count) * mean / root
            moved = moved.clamp(min=0) if key[0] == "split" else self._project(key[1], moved)
        return moved.requires_grad_()

    def _project(self, index: int, moved: Tensor) -> Tensor:
        node = self._bounder.network.network.nodes[index]
        return activation_rule(node.op).project(node, moved, self._bounder.bounds[node.inputs[0]])
