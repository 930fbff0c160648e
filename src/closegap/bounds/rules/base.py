"""What a rule is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from closegap.bounds.records import Interval, Relaxation
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights

__all__ = ["ActivationRule", "AffineRule", "Rule"]

Shape: TypeAlias = tuple[int, ...]


@runtime_checkable
class AffineRule(Protocol):
    """An op that is affine in its inputs."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """The exact range, entry by entry, of the op over the parents' boxes, rounded outward."""

    def adjoint(
        self, node: Node, weights: NodeWeights, coefficients: Tensor, shapes: Sequence[Shape]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Move `coefficients` `[B, Q, *shape]` to the inputs.

        Args:
            node: the node.
            weights: its weights.
            coefficients: on the node's value.
            shapes: of the inputs.

        Returns:
            the coefficients on each input, and the constant `[B, Q]` that the bias adds (or
            `None`).
        """

    def magnitude(
        self, node: Node, weights: NodeWeights, parents: Sequence[Tensor]
    ) -> tuple[Tensor, int]:
        """Rounding data: `sum |weight| |input| + |bias|` `[B, *shape]`, and its number of terms."""


@runtime_checkable
class ActivationRule(Protocol):
    """A non-linear op: elementwise, or over the last axis."""

    def interval(self, node: Node, weights: NodeWeights, parents: Sequence[Interval]) -> Interval:
        """The exact range over the input interval, rounded outward."""

    def undecided(self, node: Node, bounds: Interval) -> Tensor:
        """Where tighter input bounds would change the relaxation: bool `[B, *input shape]`."""

    def default(self, node: Node, bounds: Interval) -> Tensor:
        """The starting parameters `[B, ...]`."""

    def project(self, node: Node, parameters: Tensor, bounds: Interval) -> Tensor:
        """The nearest allowed parameters; `parameters` is `[B, Q, ...]`."""

    def relax(self, node: Node, bounds: Interval, parameters: Tensor | None) -> Relaxation:
        """Lines that hold on `bounds`, for the given parameters `[B, Q, ...]` or the default."""

    def spread(self, coefficients: Tensor) -> Tensor:
        """Coefficients on the output, broadcastable against slopes on the input."""


Rule: TypeAlias = AffineRule | ActivationRule
