"""ReLU and leaky ReLU: a free lower slope, the chord above.

Source: CROWN (Zhang et al., 2018), alpha-CROWN (Xu et al., 2021), DeepPoly (Singh et al., 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from closegap.bounds.records import Interval, Relaxation, unstable
from closegap.bounds.regions import underflow
from closegap.bounds.rules.common import line_rounding
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights, forward_node

__all__ = ["LeakyReluRule", "ReluRule"]


class ReluRule:
    """`max(z, 0)`. Parameter: the lower slope alpha in [0, 1], `[B, Q, *shape]`."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `ActivationRule`; exact in floating point."""
        return Interval(parents[0].lower.clamp(min=0), parents[0].upper.clamp(min=0))

    def undecided(self, node: Node, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return unstable(bounds)

    def default(self, node: Node, bounds: Interval) -> Tensor:
        """The slope of least area: 1 where the positive side is the longer one."""
        return _adaptive(bounds)

    def project(self, node: Node, parameters: Tensor, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return parameters.clamp(0, 1)

    def relax(self, node: Node, bounds: Interval, parameters: Tensor | None) -> Relaxation:
        """See `ActivationRule`."""
        return _relax(bounds, parameters, 0.0)

    def spread(self, coefficients: Tensor) -> Tensor:
        """See `ActivationRule`."""
        return coefficients


class LeakyReluRule:
    """`z` or `slope z`. Parameter: the lower slope in [slope, 1], `[B, Q, *shape]`."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `ActivationRule`: the op is monotone; one product is rounded."""
        ends = [forward_node(node, weights, [end]) for end in (parents[0].lower, parents[0].upper)]
        size = parents[0].magnitude
        slack = line_rounding(size) + underflow(size.dtype) * (size != 0)
        return Interval(ends[0] - slack, ends[1] + slack)

    def undecided(self, node: Node, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return unstable(bounds)

    def default(self, node: Node, bounds: Interval) -> Tensor:
        """The slope of least area."""
        return _adaptive(bounds).clamp(min=cast(ops.LeakyRelu, node.op).slope)

    def project(self, node: Node, parameters: Tensor, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return parameters.clamp(cast(ops.LeakyRelu, node.op).slope, 1)

    def relax(self, node: Node, bounds: Interval, parameters: Tensor | None) -> Relaxation:
        """See `ActivationRule`."""
        return _relax(bounds, parameters, cast(ops.LeakyRelu, node.op).slope)

    def spread(self, coefficients: Tensor) -> Tensor:
        """See `ActivationRule`."""
        return coefficients


def _adaptive(bounds: Interval) -> Tensor:
    return (bounds.upper >= -bounds.lower).to(bounds.lower.dtype)


def _relax(bounds: Interval, alpha: Tensor | None, slope: float) -> Relaxation:
    """Both ops at once: ReLU has the slope 0. The chord runs through both ends.

    Slopes outside their range (a warm start that was rounded, say) are moved into it, for a line
    that is too flat is not below a leaky ReLU.
    """
    lower, upper = bounds.lower[:, None], bounds.upper[:, None]
    on, open_ = lower >= 0, unstable(bounds)[:, None]
    # Where open, this is above `upper > 0`, however small; an infinite one gives no line at all.
    width = torch.where(open_, upper - lower, torch.ones_like(lower))
    chord = (upper - slope * lower) / torch.where(width.isinf(), torch.nan, width)
    stable = torch.where(on, torch.ones_like(lower), torch.full_like(lower, slope))
    upper_slope = torch.where(open_, chord, stable)
    intercept = torch.where(open_, (slope - chord) * lower, torch.zeros_like(lower))
    if alpha is None:
        alpha = _adaptive(bounds)[:, None]
    lower_slope = torch.where(open_, alpha.clamp(slope, 1), stable)
    free = open_.to(lower.dtype)
    return Relaxation(lower_slope, upper_slope, None, intercept, free)
