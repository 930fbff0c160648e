"""The maximum over the last axis (max pooling after its windows were taken).

Below: any convex combination of the inputs. Above: the constant `max u`, or the plane
`z_i + sum_j chord of relu(z_j - theta)` with `theta = l_i = max l`, whichever is lower in the
middle of the box. Both hold on the whole box.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from closegap.bounds.records import Interval, Relaxation
from closegap.core.numerics import TINY
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights

__all__ = ["MaxRule"]


class MaxRule:
    """Parameter: weights `[B, Q, *input shape]` on the simplex over the last axis."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """See `ActivationRule`; exact."""
        return Interval(parents[0].lower.amax(-1), parents[0].upper.amax(-1))

    def undecided(self, node: Node, bounds: Interval) -> Tensor:
        """See `ActivationRule`."""
        return (bounds.upper > bounds.lower.amax(-1, keepdim=True)) & ~_decided(bounds)

    def default(self, node: Node, bounds: Interval) -> Tensor:
        """All weight on the input with the greatest lower bound."""
        best = bounds.lower.argmax(-1)
        return F.one_hot(best, bounds.lower.shape[-1]).to(bounds.lower.dtype)

    def project(self, node: Node, parameters: Tensor, bounds: Interval) -> Tensor:
        """The nearest point of the simplex (Duchi et al., 2008), by sorting."""
        ordered = parameters.sort(dim=-1, descending=True).values
        excess = ordered.cumsum(-1) - 1
        counts = torch.arange(1, parameters.shape[-1] + 1, device=parameters.device)
        support = (ordered * counts > excess).sum(-1, keepdim=True)
        shift = excess.gather(-1, support - 1) / support
        return (parameters - shift).clamp(min=0)

    def relax(self, node: Node, bounds: Interval, parameters: Tensor | None) -> Relaxation:
        """See `ActivationRule`."""
        lower, upper = bounds.lower, bounds.upper
        leader = self.default(node, bounds)
        theta = lower.amax(-1, keepdim=True)
        rivals = torch.where(leader > 0, torch.full_like(upper, -torch.inf), upper)
        decided = _decided(bounds)
        height = (rivals - theta).clamp(min=0)
        # Where a rival reaches above theta, its width is at least that height: never zero.
        width = torch.where(height > 0, upper - lower, torch.ones_like(upper))
        slope = height / torch.where(width.isinf(), torch.nan, width)
        plane = leader + slope
        intercept = -(slope * torch.where(slope > 0, lower, torch.zeros_like(lower))).sum(-1)
        ceiling = upper.amax(-1)
        middle = (plane * (lower + upper) / 2).sum(-1) + intercept
        flat = ~decided[..., 0] & (middle >= ceiling)
        weights = leader[:, None] if parameters is None else self._normalised(parameters)
        return Relaxation(
            lower_slope=torch.where(decided[:, None], leader[:, None], weights),
            upper_slope=torch.where(flat[..., None], torch.zeros_like(plane), plane)[:, None],
            lower_intercept=None,
            upper_intercept=torch.where(flat, ceiling, intercept)[:, None],
        )

    @staticmethod
    def _normalised(parameters: Tensor) -> Tensor:
        """Rounding may leave the simplex; the sum is what soundness needs (allowance covers u)."""
        return parameters / parameters.sum(-1, keepdim=True).clamp(min=TINY)

    def spread(self, coefficients: Tensor) -> Tensor:
        """See `ActivationRule`: one coefficient for the whole window."""
        return coefficients[..., None]


def _decided(bounds: Interval) -> Tensor:
    """Where one input is never below any other, `[B, *shape, 1]`."""
    best = bounds.lower.argmax(-1, keepdim=True)
    rivals = bounds.upper.scatter(-1, best, -torch.inf)
    return bounds.lower.amax(-1, keepdim=True) >= rivals.amax(-1, keepdim=True)
