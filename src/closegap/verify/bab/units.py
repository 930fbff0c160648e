"""What the activations of a problem allow: which units are open, where to cut them, what it gains.

ReLU and leaky ReLU are cut at zero and exact afterwards, sign with sign(0) = +1 likewise. Smooth
activations are cut anywhere and never exact: a unit is closed once its interval is narrower than
`FINEST_CUT`.
Source: Shi et al., Neural network verification with branch-and-bound for general nonlinearities,
2024, for the choice of unit by what its relaxation gains.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from closegap.bounds.records import Interval
from closegap.bounds.rules import activation_rule
from closegap.branching.options import Cut
from closegap.core.numerics import FINEST_CUT
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.runtime.torch_network import forward_node

__all__ = ["cut_points", "is_hinge", "is_splittable", "open_units", "relief"]

#: Zero is a good cut of a smooth activation where each side has this share of the interval.
_BALANCE = 0.2


def is_splittable(network: Network) -> bool:
    """True iff every activation can be split (max pooling: once rewritten)."""
    return all(_can_split(network.nodes[i].op) for i in network.activations)


def _can_split(op: ops.Op) -> bool:
    if isinstance(op, ops.Sign):
        return op.at_zero == 1
    return isinstance(op, ops.Relu | ops.LeakyRelu | ops.Sigmoid | ops.Tanh)


def is_hinge(op: ops.Op) -> bool:
    """ReLU and leaky ReLU."""
    return isinstance(op, ops.Relu | ops.LeakyRelu)


def open_units(op: ops.Op, lower: Tensor, upper: Tensor) -> Bool[Tensor, "..."]:
    """Where a split would tell something."""
    if is_hinge(op):
        return (lower < 0) & (upper > 0)
    if isinstance(op, ops.Sign):
        return (lower < 0) & (upper >= 0)
    return upper - lower > FINEST_CUT


def cut_points(op: ops.Op, lower: Tensor, upper: Tensor, cut: Cut) -> Float[Tensor, "..."]:
    """Where to split units with these bounds."""
    if is_hinge(op) or isinstance(op, ops.Sign):
        return torch.zeros_like(lower)
    middle = (lower + upper) / 2
    if cut == "middle":
        return middle
    inner = torch.minimum(-lower, upper) > _BALANCE * (upper - lower)
    return torch.where(inner, 0.0, middle)


def relief(
    node: Node, incoming: Tensor, lower: Tensor, upper: Tensor, cut: Cut
) -> Float[Tensor, "B U"]:
    """How much closer the lines come to an activation at a cut, times the coefficient they meet.

    The worse half counts: the bound of a split is that of its worse child.
    """
    whole = _gap(node, incoming, lower, upper)
    if isinstance(node.op, ops.Sign):  # exact on either half
        return whole * incoming.abs()
    point = cut_points(node.op, lower, upper, cut)
    halves = [_gap(node, incoming, lower, point), _gap(node, incoming, point, upper)]
    return (whole - torch.maximum(*halves)).clamp(min=0) * incoming.abs()


def _gap(node: Node, incoming: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The distance between the activation and the line it is replaced by, in the middle."""
    middle = (lower + upper) / 2
    value = forward_node(node, {}, [middle])
    lines = activation_rule(node.op).relax(node, Interval(lower, upper), None)
    below = lines.lower_slope[:, 0] * middle
    if lines.lower_intercept is not None:
        below = below + lines.lower_intercept[:, 0]
    above = lines.upper_slope[:, 0] * middle
    if lines.upper_intercept is not None:
        above = above + lines.upper_intercept[:, 0]
    return torch.where(incoming >= 0, value - below, above - value).clamp(min=0)
