"""Windows: the part of an image that some rows can depend on.

A neuron behind a few convolutions reads a small part of every earlier image. Rows of neighbouring
neurons are kept as coefficients on that part alone; it grows on the way back by each kernel's
reach. Where it covers most of an image, and before every op that is not local, rows cover the whole
image again. Exact: what lies outside a window is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

import torch.nn.functional as F  # noqa: N812 - the name everybody uses
from torch import Tensor

from closegap.bounds.layout import arranged, flat_pair
from closegap.graph import ops
from closegap.graph.network import Network, Node
from closegap.runtime.torch_network import NodeWeights

__all__ = ["Window", "is_local", "plan_windows", "products", "whole", "windowed_adjoint"]

#: A window that covers more of an image is not worth its cuts.
_SHARE = 0.6
#: Ops that act on each pixel by itself.
_POINTWISE = (
    ops.Add, ops.Scale, ops.Shift, ops.Relu, ops.LeakyRelu, ops.Sigmoid, ops.Tanh, ops.Sign,
)  # fmt: skip
_IMAGE = 3
#: Passes over a coefficient tensor cost as much as so many products of a convolution each entry.
_PASSES = 40


@dataclass(frozen=True)
class Window:
    """Rows `top` to `top + height` and columns `left` to `left + width` of an image."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, images: Tensor) -> Tensor:
        """The part of `[..., H, W]` in the window; axes of length 1 are shared and stay."""
        rows = slice(self.top, self.top + self.height) if images.shape[-2] > 1 else slice(None)
        columns = slice(self.left, self.left + self.width) if images.shape[-1] > 1 else slice(None)
        return images[..., rows, columns]

    def place(self, part: Tensor, within: Window) -> Tensor:
        """Zeros around `part` `[B, Q, C, *]` of this window, so that it fills a larger one."""
        top, left = self.top - within.top, self.left - within.left
        pads = (left, within.width - left - self.width, top, within.height - top - self.height)
        if not any(pads):
            return part
        padded = F.pad(part.flatten(0, 1), pads)
        return padded.reshape(*part.shape[:2], *padded.shape[1:])

    def join(self, other: Window) -> Window:
        """The smallest window around both."""
        top, left = min(self.top, other.top), min(self.left, other.left)
        bottom = max(self.top + self.height, other.top + other.height)
        right = max(self.left + self.width, other.left + other.width)
        return Window(top, left, bottom - top, right - left)


def whole(shape: tuple[int, ...]) -> Window:
    """All of an image `[C, H, W]`."""
    return Window(0, 0, *shape[1:])


def is_local(op: ops.Op) -> bool:
    """True for ops that keep windows: convolutions, and what acts on each pixel by itself."""
    return isinstance(op, (ops.Conv, *_POINTWISE))


def plan_windows(network: Network, start: int, window: Window) -> dict[int, Window]:
    """The window of every node that rows at `start` pass; a node without one is covered whole.

    Args:
        network: the graph.
        start: the node the rows stand at, an image.
        window: where they are not zero.
    """
    plan: dict[int, Window] = {start: window}
    for index in range(start, 0, -1):
        if index not in plan:
            continue
        node = network.nodes[index]
        for parent in node.inputs:
            shape = network.nodes[parent].shape
            grown = _grown(node, plan[index], network.nodes[index].shape, shape)
            plan[parent] = grown.join(plan[parent]) if parent in plan else grown
    return {i: w for i, w in plan.items() if not _covers(w, network.nodes[i].shape)}


def products(network: Network, start: int, plan: Mapping[int, Window]) -> tuple[int, int]:
    """What one row costs: multiplications (passes over it counted in), and its largest tensor."""
    reached, cost, largest = {start}, 0, 0
    for index in range(start, -1, -1):
        if index not in reached:
            continue
        node = network.nodes[index]
        reached.update(node.inputs)
        entries = node.size
        if index in plan:
            entries = node.shape[0] * plan[index].height * plan[index].width
        each = _PASSES
        if isinstance(node.op, ops.Conv):
            each += prod(node.op.weight.shape[1:])
        elif isinstance(node.op, ops.Linear):
            each += node.op.weight.shape[1]
        cost, largest = cost + entries * each, max(largest, entries)
    return cost, largest


def windowed_adjoint(
    node: Node,
    weights: NodeWeights,
    coefficients: Tensor,
    window: Window,
    shapes: Sequence[tuple[int, ...]],
) -> tuple[list[Tensor], list[Window], Tensor | None]:
    """The adjoint of a local affine op on a window.

    Returns:
        the coefficients on each input, their windows, and the constant `[B, Q]` (or `None`).
    """
    if isinstance(node.op, ops.Conv):
        return _conv_adjoint(node, weights, coefficients, window, shapes)
    same = [window] * len(shapes)
    if isinstance(node.op, ops.Scale):
        factor = window.crop(weights["factor"].expand(node.shape))
        return [coefficients * factor], same, None
    if isinstance(node.op, ops.Shift):
        offset = window.crop(weights["offset"].expand(node.shape))
        flat, constant = flat_pair(coefficients, offset[None, None])
        return [coefficients], same, flat @ constant[0, 0]
    return [coefficients] * len(shapes), same, None


def _conv_adjoint(
    node: Node,
    weights: NodeWeights,
    coefficients: Tensor,
    window: Window,
    shapes: Sequence[tuple[int, ...]],
) -> tuple[list[Tensor], list[Window], Tensor | None]:
    """The whole reach of the window's kernels, cut where it leaves the image."""
    op = cast(ops.Conv, node.op)
    full = F.conv_transpose2d(
        arranged(coefficients.flatten(0, 1)),
        weights["weight"], None, op.stride, 0, 0, op.groups, op.dilation,
    )  # fmt: skip
    reach, grown = _reach(op, window), _clipped(_reach(op, window), shapes[0])
    top, left = grown.top - reach.top, grown.left - reach.left
    if reach.join(grown) == reach:
        cut = full[:, :, top : top + grown.height, left : left + grown.width]
    else:  # the window reads nothing but pads
        cut = full.new_zeros(len(full), shapes[0][0], grown.height, grown.width)
    bias = weights["bias"][None, None, :, None, None].expand(1, 1, *coefficients.shape[2:])
    flat, constant = flat_pair(coefficients, bias)
    moved = cut.reshape(*coefficients.shape[:2], *cut.shape[1:])
    return [moved], [grown], flat @ constant[0, 0]


def _grown(node: Node, window: Window, shape: tuple[int, ...], parent: tuple[int, ...]) -> Window:
    """What the window's entries depend on; the whole of an image that is too much of it."""
    if len(parent) != _IMAGE:
        return Window(0, 0, 1, 1)
    if not is_local(node.op) or _covers(window, shape):
        return whole(parent)
    return _clipped(_reach(node.op, window), parent) if isinstance(node.op, ops.Conv) else window


def _covers(window: Window, shape: tuple[int, ...]) -> bool:
    """True iff the rows at a node of this shape are better kept whole."""
    return len(shape) != _IMAGE or window.height * window.width > _SHARE * shape[1] * shape[2]


def _reach(op: ops.Conv, window: Window) -> Window:
    """What the kernels of a window read, pads included."""
    (down, right), kernel = op.stride, op.weight.shape[2:]
    return Window(
        window.top * down - op.pads[0],
        window.left * right - op.pads[1],
        (window.height - 1) * down + op.dilation[0] * (kernel[0] - 1) + 1,
        (window.width - 1) * right + op.dilation[1] * (kernel[1] - 1) + 1,
    )


def _clipped(reach: Window, shape: tuple[int, ...]) -> Window:
    """The part inside the image; a window within the pads alone keeps one pixel."""
    top, left = max(0, min(reach.top, shape[1] - 1)), max(0, min(reach.left, shape[2] - 1))
    bottom = max(top + 1, min(shape[1], reach.top + reach.height))
    right = max(left + 1, min(shape[2], reach.left + reach.width))
    return Window(top, left, bottom - top, right - left)
