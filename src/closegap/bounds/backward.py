"""The backward pass (CROWN): rows at a node become linear functions of the input.

Only lower bounds: an upper bound of `row . z` is minus the lower bound of `-row . z`.
Source: Zhang et al., CROWN, 2018; Wang et al., beta-CROWN, 2021; `residual` graphs by accumulating
one coefficient for each node and one constant for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from closegap.bounds.constraints import ConstraintSet
from closegap.bounds.crossing import cross, dot, with_slopes
from closegap.bounds.layout import arranged_lines
from closegap.bounds.records import ActivationBounds, Interval, LinearBound, Parameters, Relaxation
from closegap.bounds.regions import InputSet, least, underflow
from closegap.bounds.rules import activation_rule, affine_rule
from closegap.bounds.windows import Window, is_local, whole, windowed_adjoint
from closegap.core.numerics import gamma
from closegap.graph import ops
from closegap.graph.network import Network
from closegap.runtime.torch_network import TorchNetwork

__all__ = ["BackwardPass", "lower_bound"]

#: Terms added to every allowance, besides one for each node: the additions where branches meet, and
#: those of the constants.
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
        walls: by feeding node, between which values split constraints hold its entries
            `[B or 1, *shape]`, finite; split multipliers push against them. Absent: zeros.
        constraints: what else holds on the region; each counts where it has multipliers.
        lines: by activation, lines of all domains that replace its relaxation where no slopes are
            given (those of a network that is affine in part, say); who gives them answers for them.
    """

    network: TorchNetwork
    bounds: ActivationBounds
    values: list[Interval] | None = None
    slack: Mapping[int, Tensor] = field(default_factory=dict)
    walls: Mapping[int, Interval] = field(default_factory=dict)
    constraints: tuple[ConstraintSet, ...] = ()
    lines: Mapping[int, Relaxation] = field(default_factory=dict)
    _known_lines: dict[int, Relaxation] = field(default_factory=dict, init=False, repr=False)
    _known_sizes: dict[int, Tensor | None] = field(default_factory=dict, init=False, repr=False)
    _known_losses: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def run(
        self,
        start: int,
        rows: Float[Tensor, "B Q ..."],
        parameters: Parameters | None = None,
        *,
        keep_incoming: bool = False,
        windows: Mapping[int, Window] | None = None,
        widen: bool = True,
    ) -> LinearBound:
        """Propagate rows at node `start` back to the input.

        Args:
            start: index of the node that the rows stand at.
            rows: coefficients `[B, Q, *shape of start]`.
            parameters: slopes and split multipliers; the rules' defaults where absent. Splits of
                nodes behind `start` count too: what they assume bears on every earlier node.
            keep_incoming: also return the coefficients that entered each relaxation.
            windows: from `plan_windows`; `rows` then cover the window of `start`, if it has one.
            widen: whether coefficients cover the whole input, not its window alone.

        Returns:
            a linear function below `rows . value` on the whole region.

        Raises:
            ValueError: windows together with split or other multipliers, which reach beyond any.
        """
        chosen = parameters or Parameters()
        if windows and (chosen.splits or chosen.weights):
            raise ValueError("rows on windows take no split or other multipliers; pass whole rows")
        state = _State(self.network.network, chosen, rows, windows or {})
        state.pending[start] = rows
        self._impose(state)
        for later in (i for i in chosen.splits if i > start and i not in state.pending):
            shape = self.network.network.nodes[later].shape
            state.pending[later] = rows.new_zeros(*rows.shape[:2], *shape)
        for index in range(max(state.pending), 0, -1):
            if index in state.pending:
                self._step(index, state, keep_incoming)
        shape = self.network.network.input_shape
        coefficients = state.pending.get(0)
        if coefficients is None:
            coefficients = rows.new_zeros(*rows.shape[:2], *shape)
        elif widen and 0 in state.windows:
            coefficients = state.windows[0].place(coefficients, whole(shape))
        return LinearBound(coefficients, state.constant, state.rounding, state.incoming)

    def select(self, domains: Tensor) -> BackwardPass:
        """The pass of some domains, in the given order, repeats allowed."""
        bounds = {i: b.select(domains) for i, b in self.bounds.items()}
        values = None if self.values is None else [v.select(domains) for v in self.values]
        walls = {i: w.select(domains) for i, w in self.walls.items()}
        constraints = tuple(c.select(domains) for c in self.constraints)
        return BackwardPass(
            self.network, bounds, values, self.slack, walls, constraints, self.lines
        )

    def _impose(self, state: _State) -> None:
        """Subtract what the constraints say, all of it or nothing, at the nodes they speak of."""
        for place, weights in state.parameters.weights.items():
            terms = self.constraints[place].terms(weights, self.values)
            for index, part in terms.coefficients.items():
                state.add(index, -part, None)
            state.constant = state.constant + terms.constant
            state.rounding = state.rounding + terms.rounding

    def _step(self, index: int, state: _State, keep_incoming: bool) -> None:
        """Move the coefficients of one node to its inputs."""
        node = self.network.network.nodes[index]
        coefficients, window = state.take(index)
        if index in self.walls and index in state.parameters.splits:
            self._push(index, state)
        if node.is_activation:
            if keep_incoming:
                state.incoming[index] = _widened(coefficients, window, node.shape)
            self._cross(index, coefficients, window, state)
            return
        weights = self.network.weights[index]
        shapes = [self.network.network.nodes[p].shape for p in node.inputs]
        covered: Sequence[Window | None] = [None] * len(shapes)
        if window is None:
            rule = affine_rule(node.op)
            parts, bias = rule.adjoint(node, weights, coefficients, shapes)
        else:
            parts, covered, bias = windowed_adjoint(node, weights, coefficients, window, shapes)
        for parent, part, cover in zip(node.inputs, parts, covered, strict=True):
            state.add(parent, part, cover)
        if bias is not None:
            state.constant = state.constant + bias
        if self.values is not None:
            size = self._affine_rounding(index)
            if size is not None:
                lost = dot(coefficients.abs(), _cut(size, window)) + self._vanished(index)
                state.rounding = state.rounding + lost

    def _push(self, index: int, state: _State) -> None:
        """Split multipliers at points other than zero: `multiplier (z - wall) >= 0`."""
        multipliers, walls = state.parameters.splits[index], self.walls[index]
        wall = torch.where(multipliers > 0, walls.lower[:, None], walls.upper[:, None])
        terms = (multipliers * wall).flatten(2)
        state.constant = state.constant + terms.sum(2)
        if self.values is not None:
            vanished = terms.shape[2] * underflow(self.network.dtype)
            lost = self._gamma(terms.shape[2]) * terms.abs().sum(2) + vanished
            state.rounding = state.rounding + lost

    def _cross(
        self, index: int, coefficients: Tensor, window: Window | None, state: _State
    ) -> None:
        """Take the coefficients on an activation to its input."""
        node = self.network.network.nodes[index]
        slopes = state.parameters.slopes.get(index)
        lines = self._lines(index, slopes)
        spread = activation_rule(node.op).spread(coefficients)
        cut = lines if window is None else lines.map(window.crop)
        moved, constant = cross(spread, coefficients, cut)
        state.add(node.inputs[0], moved, window)
        if constant is not None:
            state.constant = state.constant + constant
        if self.values is not None:
            size = self._crossing_rounding(index, lines, slopes is None)
            lost = dot(coefficients.abs(), _cut(size, window)) + self._vanished(index)
            state.rounding = state.rounding + lost

    def _lines(self, index: int, slopes: Tensor | None) -> Relaxation:
        """The relaxation of an activation; the default one is computed once a pass."""
        node = self.network.network.nodes[index]
        bounds = self.bounds[node.inputs[0]]
        lines = self._known_lines.get(index)
        if lines is None:
            given = self.lines.get(index)
            lines = given or activation_rule(node.op).relax(node, bounds, None)
            lines = self._known_lines[index] = arranged_lines(lines)
        if slopes is None:
            return lines
        if self.values is not None:  # a proof takes no parameters on trust
            slopes = activation_rule(node.op).project(node, slopes, bounds)
        if lines.choice is not None:
            return with_slopes(lines, slopes)
        return activation_rule(node.op).relax(node, bounds, slopes)

    def _affine_rounding(self, index: int) -> Tensor | None:
        """`size` `[B or 1, 1, *shape]` with `|coefficients| . size` what one affine step loses."""
        assert self.values is not None
        if index not in self._known_sizes:
            node = self.network.network.nodes[index]
            sizes = [self.values[p].magnitude for p in node.inputs]
            size, terms = affine_rule(node.op).magnitude(node, self.network.weights[index], sizes)
            # The product may underflow, and coefficients may be large.
            tiny = underflow(self.network.dtype)
            total = self._gamma(terms) * size[:, None] + tiny if terms else None
            if index in self.slack:
                off = self.slack[index].expand(node.shape)[None, None]
                total = off if total is None else total + off
            self._known_sizes[index] = total
        return self._known_sizes[index]

    def _crossing_rounding(self, index: int, lines: Relaxation, default: bool) -> Tensor:
        """The same for an activation, `[B or 1, Q or 1, *output shape]`."""
        if default and index in self._known_sizes:
            known = self._known_sizes[index]
            assert known is not None
            return known
        node = self.network.network.nodes[index]
        size = self.bounds[node.inputs[0]].magnitude[:, None]
        steep = torch.maximum(lines.lower_slope.abs(), lines.upper_slope.abs()) * size
        if isinstance(node.op, ops.Max):
            steep = steep.sum(-1)
        for intercept in (lines.lower_intercept, lines.upper_intercept):
            if intercept is not None:
                steep = steep + intercept.abs()
        steep = self._gamma(node.size) * steep + underflow(self.network.dtype)
        if default:
            self._known_sizes[index] = steep
        return steep

    def _vanished(self, index: int) -> Tensor:
        """What products that underflow may cost the step of a node, `[B or 1, 1]`.

        Coefficients on an input are sums of at most one product for each entry of the node; they
        are off at the size of that input. Constants and the allowance itself have as many products.
        """
        assert self.values is not None
        if index not in self._known_losses:
            node = self.network.network.nodes[index]
            each = underflow(self.network.dtype) * node.size
            reach = [self.values[p].magnitude.flatten(1).sum(1, keepdim=True) for p in node.inputs]
            self._known_losses[index] = each * (sum(reach, torch.zeros_like(reach[0])) + 4)
        return self._known_losses[index]

    def _gamma(self, terms: int) -> float:
        """Relative rounding of a sum of so many terms in the pass's dtype."""
        unit = float(torch.finfo(self.network.dtype).eps) / 2
        return gamma(terms + _EXTRA_TERMS + len(self.network.network.nodes), unit)


class _State:
    """What one pass accumulates."""

    def __init__(
        self, graph: Network, parameters: Parameters, rows: Tensor, windows: Mapping[int, Window]
    ) -> None:
        self.parameters = parameters
        self.windows = windows
        self.pending: dict[int, Tensor] = {}
        self.incoming: dict[int, Tensor] = {}
        self.constant = rows.new_zeros(rows.shape[:2])
        self.rounding = rows.new_zeros(rows.shape[:2])
        self._graph = graph

    def add(self, index: int, coefficients: Tensor, window: Window | None) -> None:
        """Let the coefficients of one more consumer arrive at a node; `None`: on all of it."""
        if window is not None:
            goal = self.windows.get(index) or whole(self._graph.nodes[index].shape)
            coefficients = window.place(coefficients, goal)
        known = self.pending.get(index)
        self.pending[index] = coefficients if known is None else known + coefficients

    def take(self, index: int) -> tuple[Tensor, Window | None]:
        """All coefficients at a node, split multipliers subtracted, and where they stand."""
        coefficients, window = self.pending.pop(index), self.windows.get(index)
        node = self._graph.nodes[index]
        if window is not None and not is_local(node.op):
            coefficients, window = window.place(coefficients, whole(node.shape)), None
        split = self.parameters.splits.get(index)
        return coefficients if split is None else coefficients - split, window


def _cut(images: Tensor, window: Window | None) -> Tensor:
    return images if window is None else window.crop(images)


def _widened(coefficients: Tensor, window: Window | None, shape: tuple[int, ...]) -> Tensor:
    return coefficients if window is None else window.place(coefficients, whole(shape))


def lower_bound(
    bounder: BackwardPass,
    region: InputSet,
    start: int,
    rows: Float[Tensor, "#B Q ..."],
    parameters: Parameters | None = None,
    windows: Mapping[int, Window] | None = None,
) -> Float[Tensor, "#B Q"]:
    """The least value of `rows . value(start)` over the region is at least this.

    With `bounder.values` given, rounding is subtracted and a bound that is not finite becomes
    minus infinity; without them it is a guide for search.
    """
    linear = bounder.run(start, rows, parameters, windows=windows, widen=False)
    shape = bounder.network.network.input_shape
    if windows and 0 in windows and linear.coefficients.shape[2:] != shape:
        region = region.crop(windows[0])
    value, rounding = least(region, linear.coefficients)
    total = value + linear.constant
    if bounder.values is None:
        return total
    total = total - 2 * (rounding + linear.rounding)
    return torch.where(torch.isfinite(total), total, torch.full_like(total, -torch.inf))
