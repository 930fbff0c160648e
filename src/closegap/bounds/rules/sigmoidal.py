"""Sigmoid and tanh: convex below zero, concave above.

A lower line is the chord, or the tangent at any point d up to `d_low`, where the tangent meets the
curve at u; the upper line mirrors it. Parameters are the shares of the allowed range of d.
Source: Zhang et al., CROWN, 2018, section 3; tangent points by bisection, to the safe side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from closegap.bounds.records import Interval, Relaxation
from closegap.bounds.rules.common import line_rounding
from closegap.core.numerics import TINY
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights

__all__ = ["SIGMOID", "TANH", "SigmoidalRule"]

_BISECTIONS = 60


@dataclass(frozen=True)
class _Curve:
    """An increasing function that is convex below zero and concave above."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def _sigmoid_slope(z: Tensor) -> Tensor:
    s = torch.sigmoid(z)
    return s * (1 - s)


@dataclass(frozen=True)
class SigmoidalRule:
    """Parameters `[B, Q, 2, *shape]`: shares of the tangent ranges, in [0, 1]."""

    curve: _Curve

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `ActivationRule`."""
        lower, upper = self.curve.value(parents[0].lower), self.curve.value(parents[0].upper)
        slack = line_rounding(torch.ones_like(lower))
        return Interval(lower - slack, upper + slack)

    def undecided(self, node: Node, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return bounds.upper > bounds.lower

    def default(self, node: Node, bounds: Interval) -> Tensor:
        """Tangents in the middle of their ranges."""
        return _middle(bounds)

    def project(self, node: Node, parameters: Tensor, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return parameters.clamp(0, 1)

    def relax(self, node: Node, bounds: Interval, parameters: Tensor | None) -> Relaxation:
        """See `ActivationRule`."""
        return _relax(self.curve, bounds, parameters)

    def spread(self, coefficients: Tensor) -> Tensor:
        """See `ActivationRule`."""
        return coefficients


SIGMOID = SigmoidalRule(_Curve(torch.sigmoid, _sigmoid_slope))
TANH = SigmoidalRule(_Curve(torch.tanh, lambda z: 1 - torch.tanh(z) ** 2))


def _middle(bounds: Interval) -> Tensor:
    return torch.full_like(bounds.lower, 0.5)[:, None].expand(-1, 2, *bounds.lower.shape[1:])


def _relax(curve: _Curve, bounds: Interval, parameters: Tensor | None) -> Relaxation:
    share = _middle(bounds) if parameters is None else parameters
    if parameters is None:
        share = share[:, None]
    slope, intercept = _below(curve, bounds.lower[:, None], bounds.upper[:, None], share[:, :, 0])
    # -curve(-z) is the same curve for tanh, and 1 - sigmoid mirrored; mirror the box instead.
    mirror = _Curve(lambda z: -curve.value(-z), lambda z: curve.slope(-z))
    top, height = _below(mirror, -bounds.upper[:, None], -bounds.lower[:, None], share[:, :, 1])
    return Relaxation(slope, top, intercept, -height)


def _below(curve: _Curve, lower: Tensor, upper: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and intercept of a line below the curve on `[lower, upper]`."""
    limit = _tangent_limit(curve, lower, upper)
    width = upper - lower
    chord = (curve.value(upper) - curve.value(lower)) / width.clamp(min=TINY)
    # a narrow interval: the chord's quotient is noise, the least end slope is a safe slope
    narrow = width <= line_rounding(torch.maximum(lower.abs(), upper.abs()) + 1)
    chord = torch.where(narrow, torch.zeros_like(chord), chord)
    point = lower + share * (torch.minimum(limit, upper) - lower).clamp(min=0)
    tangent = limit > lower
    slope = torch.where(tangent, curve.slope(point), chord)
    at = torch.where(tangent, point, lower)
    intercept = curve.value(at) - slope * at
    # a small slope is the difference of larger numbers: its own size says nothing of its error
    slack = line_rounding(1 + torch.maximum(lower.abs(), upper.abs()))
    return slope, intercept - slack


def _tangent_limit(curve: _Curve, lower: Tensor, upper: Tensor) -> Tensor:
    """The greatest d whose tangent stays below the curve up to `upper`; -inf where none does.

    Convex part only: every d up to `upper`. Concave part only: none. Mixed: bisection on
    `tangent_d(upper) - curve(upper)`, which grows with d on the negative axis; the lower end of
    the bracket is the safe side.
    """
    low, high = torch.minimum(lower, torch.zeros_like(lower)), torch.zeros_like(lower)
    goal = curve.value(upper)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = curve.value(middle) + curve.slope(middle) * (upper - middle) > goal
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    fits = curve.value(lower) + curve.slope(lower) * (upper - lower) <= goal
    mixed = torch.where(fits, low, torch.full_like(low, -torch.inf))
    none = torch.full_like(low, -torch.inf)
    return torch.where(upper <= 0, upper, torch.where(lower >= 0, none, mixed)).detach()
