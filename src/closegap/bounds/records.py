"""The records that bound propagation works on.

Coefficient tensors are `[B, Q, *shape]`: B domains, Q rows, and the shape of the node they stand
at. A leading dimension of 1 is shared by all domains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["ActivationBounds", "Interval", "LinearBound", "Parameters", "Relaxation", "unstable"]


@dataclass(frozen=True, eq=False)
class Interval:
    """`lower <= value <= upper`, each `[B, *shape]`."""

    lower: Tensor
    upper: Tensor

    def intersect(self, other: Interval) -> Interval:
        """The tighter of both on either side; both must hold."""
        return Interval(
            torch.maximum(self.lower, other.lower), torch.minimum(self.upper, other.upper)
        )

    @property
    def magnitude(self) -> Tensor:
        """The greatest absolute value, `[B, *shape]`."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def to(self, dtype: torch.dtype) -> Interval:
        """The same interval in another dtype (rounded to nearest: for search, not for proof)."""
        return Interval(self.lower.to(dtype), self.upper.to(dtype))

    def select(self, rows: Tensor) -> Interval:
        """The intervals of some domains; a shared interval stays shared."""
        if len(self.lower) == 1:
            return self
        return Interval(self.lower[rows], self.upper[rows])


#: Intervals of the nodes that feed non-linear nodes, keyed by the index of the feeding node.
ActivationBounds: TypeAlias = Mapping[int, Interval]


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Two lines around an activation: `ls z + li <= act(z) <= us z + ui` on its input interval.

    Slopes are `[B, Q or 1, *input shape]`, intercepts `[B, Q or 1, *output shape]` or `None` for
    zero. `choice`, where a rule gives it, is 1 where the lower slope is the parameter itself and
    0 where it is fixed: other parameters need no other relaxation, only another lower slope.
    """

    lower_slope: Tensor
    upper_slope: Tensor
    lower_intercept: Tensor | None = None
    upper_intercept: Tensor | None = None
    choice: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Relaxation:
        """The same lines with every tensor replaced by what `change` makes of it."""
        lower, upper, choice = self.lower_intercept, self.upper_intercept, self.choice
        return Relaxation(
            change(self.lower_slope),
            change(self.upper_slope),
            None if lower is None else change(lower),
            None if upper is None else change(upper),
            None if choice is None else change(choice),
        )


@dataclass(frozen=True, eq=False)
class Parameters:
    """What may be chosen freely without losing soundness.

    Attributes:
        slopes: by activation node, the rule's own parameters (alpha), `[B or 1, Q or 1, ...]`;
            absent means the rule's default.
        splits: by feeding node, the signed multipliers of split constraints, `sign * beta`,
            `[B or 1, Q or 1, *shape]`, positive where `z >= low` is assumed, negative where
            `z <= high` is; low and high are the pass's `walls`.
        weights: by position in the pass's `constraints`, their multipliers `[B or 1, Q, size]`.
    """

    slopes: Mapping[int, Tensor] = field(default_factory=dict)
    splits: Mapping[int, Tensor] = field(default_factory=dict)
    weights: Mapping[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LinearBound:
    """`row . value(x) >= coefficients . x + constant - rounding` for every x of the region.

    Attributes:
        coefficients: `[B, Q, *input shape]`.
        constant: `[B, Q]`.
        rounding: `[B, Q]`: what float arithmetic may have lost on the way; zero when not asked for.
        incoming: by activation node, the coefficient on the activation's output that entered its
            relaxation, `[B, Q, *shape]`; only when asked for.
    """

    coefficients: Tensor
    constant: Tensor
    rounding: Tensor
    incoming: Mapping[int, Tensor] = field(default_factory=dict)


def unstable(interval: Interval) -> Tensor:
    """Where the sign is not decided: bool `[B, *shape]`. Exact, never by tolerance."""
    return (interval.lower < 0) & (interval.upper > 0)
