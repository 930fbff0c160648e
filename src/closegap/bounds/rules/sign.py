"""The sign function, with sign(0) = 0 or +1.

Lines through the far corner: `-1 + a z` below with `a` in [0, 2 / u], `1 + b z` above with `b` in
[0, -2 / l]. Parameters are the shares of these ranges, so that they survive changed bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from closegap.bounds.records import Interval, Relaxation
from closegap.core.numerics import TINY
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights, forward_node

__all__ = ["SignRule"]


class SignRule:
    """Parameters `[B, Q, 2, *shape]`: share of the lower and of the upper slope, in [0, 1]."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `ActivationRule`; exact."""
        return Interval(
            forward_node(node, weights, [parents[0].lower]),
            forward_node(node, weights, [parents[0].upper]),
        )

    def undecided(self, node: Node, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return (bounds.lower <= 0) & (bounds.upper >= 0)

    def default(self, node: Node, bounds: Interval) -> Tensor:
        """The steeper line on the longer side, a constant on the shorter."""
        longer = bounds.upper >= -bounds.lower
        return torch.stack([~longer, longer], dim=1).to(bounds.lower.dtype)

    def project(self, node: Node, parameters: Tensor, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return parameters.clamp(0, 1)

    def relax(self, node: Node, bounds: Interval, parameters: Tensor | None) -> Relaxation:
        """See `ActivationRule`."""
        at_zero = cast(ops.Sign, node.op).at_zero
        lower, upper = bounds.lower[:, None], bounds.upper[:, None]
        on = (lower >= 0) if at_zero == 1 else (lower > 0)
        off = upper < 0
        share = self.default(node, bounds)[:, None] if parameters is None else parameters
        zero, one = torch.zeros_like(lower), torch.ones_like(lower)
        rise = torch.where((upper > TINY) & ~on, 2 / upper.clamp(min=TINY), zero)
        fall = torch.where((lower < -TINY) & ~off, -2 / lower.clamp(max=-TINY), zero)
        return Relaxation(
            lower_slope=torch.where(off, zero, share[:, :, 0] * rise),
            upper_slope=torch.where(on, zero, share[:, :, 1] * fall),
            lower_intercept=torch.where(on, one, -one),
            upper_intercept=torch.where(off, -one, one),
        )

    def spread(self, coefficients: Tensor) -> Tensor:
        """See `ActivationRule`."""
        return coefficients
