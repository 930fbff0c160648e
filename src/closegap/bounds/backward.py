"""The backward pass (CROWN): rows at a node become linear functions of the input.

Only lower bounds: an upper bound of `row . z` is minus the lower bound of `-row . z`.
Source: Zhang et al., CROWN, 2018; Wang et al., beta-CROWN, 2021; `residual` graphs by accumulating
one coefficient for each node and one constant for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.bounds.records import ActivationBounds, Interval, LinearBound, Parameters, Relaxation
from closegap.bounds.regions import InputSet, least
from closegap.bounds.rules import ActivationRule, rule_of
from closegap.core.numerics import gamma
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["BackwardPass", "lower_bound"]

#: Terms added to every allowance for the handful of additions where branches and lines meet.
_EXTRA_TERMS = 8


@dataclass(frozen=True, eq=False)
class BackwardPass:
    """A network, and what is known of its activations' inputs.

    Attributes:
        network: weights and dtype; bounds of every record must have the same dtype.
        bounds: intervals of the feeding nodes, `[B or 1, *shape]`; they must hold on the region.
        values: intervals of every node, for the rounding allowance; `None` computes none, and
            then the result is a guide for search and no proof.
        slack: by node, how far its value may be from what the weights say, `[*shape]` (weights
            that were composed in floating point).
    """

    network: TorchNetwork
    bounds: ActivationBounds
    values: list[Interval] | None = None
    slack: Mapping[int, Tensor] = field(default_factory=dict)

    def run(
        self,
        start: int,
        rows: Float[Tensor, "B Q ..."],
        parameters: Parameters | None = None,
        *,
        keep_incoming: bool = False,
    ) -> LinearBound:
        """Propagate rows at node `start` back to the input.

        Args:
            start: index of the node that the rows stand at.
            rows: coefficients `[B, Q, *shape of start]`.
            parameters: slopes and split multipliers; the rules' defaults where absent.
            keep_incoming: also return the coefficients that entered each relaxation.

        Returns:
            a linear function below `rows . value` on the whole region.
        """
        chosen = parameters or Parameters()
        state = _State(self, chosen, rows)
        state.pending[start] = rows
        for index in range(start, 0, -1):
            if index in state.pending:
                self._step(index, state, keep_incoming)
        shape = self.network.network.input_shape
        coefficients = state.pending.get(0)
        if coefficients is None:
            coefficients = rows.new_zeros(*rows.shape[:2], *shape)
        return LinearBound(coefficients, state.constant, state.rounding, state.incoming)

    def select(self, domains: Tensor) -> BackwardPass:
        """The pass of some domains, in the given order, repeats allowed."""
        bounds = {i: b.select(domains) for i, b in self.bounds.items()}
        values = None if self.values is None else [v.select(domains) for v in self.values]
        return BackwardPass(self.network, bounds, values, self.slack)

    def _step(self, index: int, state: _State, keep_incoming: bool) -> None:
        """Move the coefficients of one node to its inputs."""
        node = self.network.network.nodes[index]
        coefficients = state.take(index)
        rule = rule_of(node.op)
        if isinstance(rule, ActivationRule):
            if keep_incoming:
                state.incoming[index] = coefficients
            parent = node.inputs[0]
            bounds = self.bounds[parent]
            slopes = state.parameters.slopes.get(index)
            lines = rule.relax(node, bounds, slopes)
            moved, constant = _through(rule.spread(coefficients), coefficients, lines)
            state.add(parent, moved)
            state.constant = state.constant + constant
            self._account_activation(coefficients, bounds, lines, state)
            return
        weights = self.network.weights[index]
        shapes = [self.network.network.nodes[p].shape for p in node.inputs]
        parts, bias = rule.adjoint(node, weights, coefficients, shapes)
        for parent, part in zip(node.inputs, parts, strict=True):
            state.add(parent, part)
        if bias is not None:
            state.constant = state.constant + bias
        self._account_affine(index, coefficients, state)

    def _account_affine(self, index: int, coefficients: Tensor, state: _State) -> None:
        if self.values is None:
            return
        node = self.network.network.nodes[index]
        rule = rule_of(node.op)
        assert not isinstance(rule, ActivationRule)
        sizes = [self.values[p].magnitude for p in node.inputs]
        size, terms = rule.magnitude(node, self.network.weights[index], sizes)
        if terms:
            state.account(coefficients, size, terms)
        if index in self.slack:
            off = (coefficients.abs() * self.slack[index]).flatten(2).sum(2)
            state.rounding = state.rounding + off

    def _account_activation(
        self, coefficients: Tensor, bounds: Interval, lines: Relaxation, state: _State
    ) -> None:
        if self.values is None:
            return
        size = bounds.magnitude[:, None]
        steep = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs()) * size
        if steep.dim() > coefficients.dim():
            steep = steep.sum(-1)
        for intercept in (lines.lower_intercept, lines.upper_intercept):
            if intercept is not None:
                steep = steep + intercept.abs()
        flat = (coefficients.abs() * steep).flatten(2)
        state.rounding = state.rounding + state.gamma(flat.shape[2]) * flat.sum(2)


class _State:
    """What one pass accumulates."""

    def __init__(self, owner: BackwardPass, parameters: Parameters, rows: Tensor) -> None:
        self.parameters = parameters
        self.pending: dict[int, Tensor] = {}
        self.incoming: dict[int, Tensor] = {}
        self.constant = rows.new_zeros(rows.shape[:2])
        self.rounding = rows.new_zeros(rows.shape[:2])
        self._unit = float(torch.finfo(rows.dtype).eps) / 2
        self._owner = owner

    def gamma(self, terms: int) -> float:
        """Relative rounding of a sum of so many terms in the pass's dtype."""
        return gamma(terms + _EXTRA_TERMS, self._unit)

    def add(self, index: int, coefficients: Tensor) -> None:
        """Let the coefficients of one more consumer arrive at a node."""
        known = self.pending.get(index)
        self.pending[index] = coefficients if known is None else known + coefficients

    def take(self, index: int) -> Tensor:
        """All coefficients at a node, split multipliers subtracted."""
        coefficients = self.pending.pop(index)
        split = self.parameters.splits.get(index)
        return coefficients if split is None else coefficients - split

    def account(self, coefficients: Tensor, size: Tensor, terms: int) -> None:
        """Add the rounding of one affine step."""
        flat = (coefficients.abs() * size[:, None]).flatten(2).sum(2)
        self.rounding = self.rounding + self.gamma(terms) * flat


def lower_bound(
    bounder: BackwardPass,
    region: InputSet,
    start: int,
    rows: Float[Tensor, "B Q ..."],
    parameters: Parameters | None = None,
) -> Float[Tensor, "B Q"]:
    """The least value of `rows . value(start)` over the region is at least this.

    With `bounder.values` given, rounding is subtracted and a bound that is not finite becomes
    minus infinity; without them it is a guide for search.
    """
    linear = bounder.run(start, rows, parameters)
    value, rounding = least(region, linear.coefficients)
    total = value + linear.constant
    if bounder.values is None:
        return total
    total = total - 2 * (rounding + linear.rounding)
    return torch.where(torch.isfinite(total), total, torch.full_like(total, -torch.inf))


def _through(spread: Tensor, coefficients: Tensor, lines: Relaxation) -> tuple[Tensor, Tensor]:
    """Coefficients on the activation's input, and the constant `[B, Q]`."""
    positive = spread > 0
    moved = spread * torch.where(positive, lines.lower_slope, lines.upper_slope)
    constant = coefficients.new_zeros(coefficients.shape[:2])
    if lines.lower_intercept is not None:
        constant = constant + _dot(coefficients.clamp(min=0), lines.lower_intercept)
    if lines.upper_intercept is not None:
        constant = constant + _dot(coefficients.clamp(max=0), lines.upper_intercept)
    return moved, constant


def _dot(rows: Tensor, vector: Tensor) -> Tensor:
    """`[B, Q, ...] . [B or 1, Q or 1, ...] -> [B, Q]`."""
    if vector.shape[0] == 1 and vector.shape[1] == 1:
        return rows.flatten(2) @ vector.flatten()
    return (rows * vector).flatten(2).sum(2)
