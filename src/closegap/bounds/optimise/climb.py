"""The moving part of an ascent: parameters, Adam's moments, and the best of every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from closegap.bounds.backward import BackwardPass
from closegap.bounds.records import Interval, Parameters
from closegap.bounds.rules import activation_rule
from closegap.core.numerics import SEARCH_EPSILON

__all__ = ["Climb", "Splits"]

_MOMENTUM, _VARIANCE = 0.9, 0.999

Key: TypeAlias = tuple[str, int]


@dataclass(frozen=True, eq=False)
class Splits:
    """Split neurons of one feeding node.

    A multiplier pushes against a wall: a positive one against `z >= low`, a negative one against
    `z <= high`. Where only one of them is assumed, it has that sign only.

    Attributes:
        least: `[B, 1, *shape]`: minus infinity where `z <= high` is assumed, else 0.
        most: `[B, 1, *shape]`: infinity where `z >= low` is assumed, else 0.
        multipliers: `[B, Q or 1, *shape]`, between them: where the ascent starts.
        scale: the size of a typical multiplier.
    """

    least: Tensor
    most: Tensor
    multipliers: Tensor
    scale: float = 1.0


class Climb:
    """Current parameters of the domains in work, and the best ones of all domains.

    Args:
        bounder: whose bounds the slopes are projected to.
        slopes: `[B, Q, ...]` by activation.
        splits: by feeding node.
        weights: `[B, Q, size]` by position of the bounder's constraints.
    """

    def __init__(
        self,
        bounder: BackwardPass,
        slopes: Mapping[int, Tensor],
        splits: Mapping[int, Splits],
        weights: Mapping[int, Tensor],
    ) -> None:
        self._constraints = bounder.constraints
        self._nodes = bounder.network.network.nodes
        self._bounds: dict[int, Interval] = dict(bounder.bounds)
        self._ranges = {i: (s.least, s.most) for i, s in splits.items()}
        self._scales = {i: s.scale for i, s in splits.items()}
        self._values: dict[Key, Tensor] = {
            **{("slope", i): s.requires_grad_() for i, s in slopes.items()},
            **{("split", i): s.multipliers.clone().requires_grad_() for i, s in splits.items()},
            **{("weight", i): w.requires_grad_() for i, w in weights.items()},
        }
        self._mean = {k: torch.zeros_like(v) for k, v in self._values.items()}
        self._square = {k: torch.zeros_like(v) for k, v in self._values.items()}
        self._kept = {k: v.detach().clone() for k, v in self._values.items()}
        self._active: Tensor | None = None
        self._best: Tensor | None = None

    @property
    def best(self) -> Tensor:
        """Best bounds of the domains in work, `[B, Q]`."""
        assert self._best is not None
        return self._best if self._active is None else self._best[self._active]

    def parameters(self) -> Parameters:
        """The current parameters, with gradients."""
        return _pack(self._values)

    def result(self) -> tuple[Tensor, Parameters]:
        """The best bound of every row of all domains, and the parameters behind it."""
        assert self._best is not None
        return self._best, _pack(self._kept)

    def remember(self, value: Float[Tensor, "B Q"]) -> bool:
        """Keep the parameters of each row whose bound is the best so far; True iff one is."""
        if self._best is None:
            self._best = value.clone()
            return True
        better: Bool[Tensor, "B Q"] = value > self.best
        if not bool(better.any()):
            return False
        where = slice(None) if self._active is None else self._active
        for key, kept in self._kept.items():
            mask = better.reshape(*better.shape, *(1,) * (kept.dim() - 2))
            kept[where] = torch.where(mask, self._values[key].detach(), kept[where])
        self._best[where] = torch.where(better, value, self._best[where])
        return True

    def keep(self, kept: Tensor) -> None:
        """Go on with some of the domains in work."""
        self._active = kept if self._active is None else self._active[kept]
        for table in (self._mean, self._square):
            table.update({k: v[kept] for k, v in table.items()})
        self._values = {k: v.detach()[kept].requires_grad_() for k, v in self._values.items()}
        self._ranges = {i: (a[kept], b[kept]) for i, (a, b) in self._ranges.items()}
        self._bounds = {i: b.select(kept) for i, b in self._bounds.items()}

    def step(self, lower: Tensor, open_: Tensor, rates: Mapping[str, float], count: int) -> None:
        """Adam's `count`-th projected step up the sum of the open rows' bounds.

        `rates` are those of each kind of parameter, of multipliers in units of their scale.
        """
        keys = list(self._values)
        gain = torch.where(open_, lower, torch.zeros_like(lower)).sum()
        gradients = torch.autograd.grad(gain, [self._values[k] for k in keys], allow_unused=True)
        for key, gradient in zip(keys, gradients, strict=True):
            if gradient is None:
                continue
            self._values[key] = self._moved(key, gradient, rates[key[0]] * self._scale(key), count)

    def _scale(self, key: Key) -> float:
        kind, place = key
        if kind == "weight":
            return self._constraints[place].scale
        return self._scales[place] if kind == "split" else 1.0

    def _moved(self, key: Key, gradient: Tensor, rate: float, count: int) -> Tensor:
        mean = self._mean[key].mul_(_MOMENTUM).add_(gradient, alpha=1 - _MOMENTUM)
        square = self._square[key].mul_(_VARIANCE).addcmul_(gradient, gradient, value=1 - _VARIANCE)
        root = (square / (1 - _VARIANCE**count)).sqrt_().add_(SEARCH_EPSILON)
        with torch.no_grad():
            moved = self._values[key] + rate / (1 - _MOMENTUM**count) * mean / root
            moved = self._project(*key, moved)
        return moved.requires_grad_()

    def _project(self, kind: str, index: int, moved: Tensor) -> Tensor:
        if kind == "split":
            return moved.clamp(*self._ranges[index])
        if kind == "weight":
            return self._constraints[index].project(moved)
        node = self._nodes[index]
        return activation_rule(node.op).project(node, moved, self._bounds[node.inputs[0]])


def _pack(values: Mapping[Key, Tensor]) -> Parameters:
    slopes = {i: v for (kind, i), v in values.items() if kind == "slope"}
    splits = {i: v for (kind, i), v in values.items() if kind == "split"}
    weights = {i: v for (kind, i), v in values.items() if kind == "weight"}
    return Parameters(slopes, splits, weights)
