"""Forward linear bounds: every value as a plane in the free inputs, plus or minus an error.

`|value - (plane . x + constant)| <= error` on the whole box. One forward pass bounds every neuron,
at the cost of as many forward evaluations as there are free inputs: right for a few inputs and
very many boxes, where a backward pass for each neuron would cost a hundred times as much.
Source: affine arithmetic with fixed symbols; parallel lines as in Fast-Lin (Weng et al., 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from closegap.bounds.intermediate import NetworkBounds
from closegap.bounds.records import Interval
from closegap.bounds.regions import InputSet, underflow
from closegap.bounds.rules import ActivationRule, AffineRule, rule_of
from closegap.core.numerics import gamma
from closegap.graph import ops
from closegap.graph.network import Node
from closegap.runtime.torch_network import NodeWeights, TorchNetwork, forward_node

__all__ = ["forward_activations"]

_CONSTANTS = ("bias", "offset")


@dataclass(frozen=True, eq=False)
class _Form:
    """Planes `[B, F, *shape]`, constants and errors `[B, *shape]`, and what they give."""

    plane: Tensor
    constant: Tensor
    error: Tensor
    interval: Interval


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Middle and half width of the free inputs, `[B, F]`, and their greatest absolute values."""

    middle: Tensor
    half: Tensor
    reach: Tensor


def forward_activations(
    network: TorchNetwork, region: InputSet, free: Int[Tensor, "F"]
) -> NetworkBounds:
    """Bounds on every node over many boxes that differ in the free inputs only.

    Args:
        network: in the dtype of the proof.
        region: boxes `[B, *shape]`.
        free: flat indices of the inputs whose lower and upper ends differ in some box.
    """
    lower, upper = region.lower.flatten(1), region.upper.flatten(1)
    low, high = lower[:, free], upper[:, free]
    inputs = _Inputs((low + high) / 2, (high - low) / 2, torch.maximum(low.abs(), high.abs()))
    forms = [_input_form(region, free, inputs)]
    values = [forms[0].interval]
    for index in range(1, len(network.network.nodes)):
        node = network.network.nodes[index]
        parents = [forms[p] for p in node.inputs]
        rule = rule_of(node.op)
        weights = network.weights[index]
        if isinstance(rule, ActivationRule):
            form = _activation(rule, node, weights, parents[0], inputs)
        else:
            form = _affine(rule, node, weights, parents, inputs)
        forms.append(form)
        values.append(form.interval)
    bounds = {i: values[i] for i in network.network.pre_activations}
    return NetworkBounds(bounds, values)


def _input_form(region: InputSet, free: Tensor, inputs: _Inputs) -> _Form:
    count, size = len(region.lower), region.lower[0].numel()
    plane = region.lower.new_zeros(count, len(free), size)
    plane[:, torch.arange(len(free)), free] = 1
    constant = region.lower.flatten(1).clone()
    constant[:, free] = 0
    shape = region.lower.shape[1:]
    interval = Interval(region.lower, region.upper)
    zero = torch.zeros_like(constant).reshape(-1, *shape)
    return _Form(
        plane.reshape(count, len(free), *shape), constant.reshape(-1, *shape), zero, interval
    )


def _affine(
    rule: AffineRule,
    node: Node,
    weights: NodeWeights,
    parents: Sequence[_Form],
    inputs: _Inputs,
) -> _Form:
    """Planes and constants through the op, errors through its absolute weights."""
    bare = {k: torch.zeros_like(w) if k in _CONSTANTS else w for k, w in weights.items()}
    absolute = {k: w.abs() if w.is_floating_point() else w for k, w in bare.items()}
    count, free = parents[0].plane.shape[:2]
    flat = [p.plane.flatten(0, 1) for p in parents]
    plane = forward_node(node, bare, flat).reshape(count, free, *node.shape)
    constant = forward_node(node, weights, [p.constant for p in parents])
    error = forward_node(node, absolute, [p.error for p in parents])
    sizes = [_size(p, inputs) for p in parents]
    size, terms = rule.magnitude(node, weights, sizes)
    error = error + _gamma(terms + free, error) * (size + error) + _vanished(terms, inputs, error)
    interval = rule.interval(node, weights, [p.interval for p in parents])
    return _form(plane, constant, error, inputs, interval)


def _size(form: _Form, inputs: _Inputs) -> Tensor:
    planes = torch.einsum("bf...,bf->b...", form.plane.abs(), inputs.reach)
    return planes + form.constant.abs() + form.error


def _gamma(terms: int, like: Tensor) -> float:
    return 3 * gamma(terms + 8, float(torch.finfo(like.dtype).eps) / 2)


def _vanished(terms: int, inputs: _Inputs, like: Tensor) -> Tensor:
    """What products that underflow take from an entry, so many a coefficient, `[B, 1, ..]`."""
    each = underflow(like.dtype) * (inputs.reach.sum(dim=1) + 8)
    return (terms * each).reshape(-1, *[1] * (like.dim() - 1))


def _form(
    plane: Tensor, constant: Tensor, error: Tensor, inputs: _Inputs, known: Interval
) -> _Form:
    """Concretise, and keep the tighter of the planes' interval and the known one."""
    middle = torch.einsum("bf...,bf->b...", plane, inputs.middle) + constant
    half = torch.einsum("bf...,bf->b...", plane.abs(), inputs.half) + error
    reach = torch.einsum("bf...,bf->b...", plane.abs(), inputs.reach) + constant.abs() + error
    rounding = _gamma(plane.shape[1], error) * reach
    rounding = rounding + 4 * (plane.shape[1] + 2) * underflow(error.dtype)
    found = Interval(middle - half - rounding, middle + half + rounding)
    return _Form(plane, constant, error, found.intersect(known))


def _activation(
    rule: ActivationRule, node: Node, weights: NodeWeights, parent: _Form, inputs: _Inputs
) -> _Form:
    """Two parallel lines around the activation: the chord's slope (or that of the upper line)."""
    bounds = parent.interval
    known = rule.interval(node, weights, [bounds])
    if isinstance(node.op, ops.Max):
        return _constant_form(parent, known)
    lines = rule.relax(node, bounds, None)
    slope = lines.upper_slope[:, 0]
    if isinstance(node.op, ops.Relu | ops.LeakyRelu):
        lines = rule.relax(node, bounds, slope[:, None])
    upper = _extreme(lines.upper_slope[:, 0] - slope, bounds, 1.0)
    lower = _extreme(lines.lower_slope[:, 0] - slope, bounds, -1.0)
    if lines.upper_intercept is not None:
        upper = upper + lines.upper_intercept[:, 0]
    if lines.lower_intercept is not None:
        lower = lower + lines.lower_intercept[:, 0]
    middle, half = (upper + lower) / 2, (upper - lower) / 2
    plane = parent.plane * slope[:, None]
    constant = parent.constant * slope + middle
    error = parent.error * slope.abs() + half
    size = (_size(parent, inputs) + bounds.magnitude) * slope.abs() + middle.abs() + half
    error = error + _gamma(8, error) * size + _vanished(1, inputs, error)
    return _form(plane, constant, error, inputs, known)


def _extreme(slope: Tensor, bounds: Interval, side: float) -> Tensor:
    """Greatest (side +1) or least (side -1) value of `slope * z` on the interval."""
    ends = torch.stack([slope * bounds.lower, slope * bounds.upper]) * side
    return ends.amax(dim=0) * side


def _constant_form(parent: _Form, known: Interval) -> _Form:
    middle, half = (known.lower + known.upper) / 2, (known.upper - known.lower) / 2
    plane = middle.new_zeros(len(middle), parent.plane.shape[1], *middle.shape[1:])
    rounding = _gamma(2, middle) * known.magnitude + 2 * underflow(middle.dtype)
    return _Form(plane, middle, half + rounding, known)
